"""Names of the files in a peer's folder, and the config that lies beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODEL = "model.onnx"
OPENVINO = "model.xml"
TORCH = "model-b{}.pt2"
"""One per batch."""
CONFIG = "config.json"
MODULES = "modules.json"
"""The module by the names of nodes and of their outputs: optimisers keep nothing but names."""


def config_of(folder: Path) -> dict[str, Any]:
    """Diffusers' component config."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return config
