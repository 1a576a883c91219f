"""What people's own tools need beside a model for TensorRT: scripts, and inputs described for them.

The scripts are those of ``mpq_export/tools``, copied as they are. Nothing here ever runs a copy.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .. import tools
from ..architectures import architecture_of
from ..bundle import Bundle
from ..conditions import ClassLabels, Condition, Typical
from ..files import TOOLS, write_json
from .graph_inputs import SAMPLE

INPUTS = "inputs.json"
SCRIPTS = ("data_loader.py", "compare.py", "network.py")


def write_tools(bundle: Bundle, lowered: Path) -> None:
    """Write the folder ``tools`` into that of a lowered model."""
    folder = lowered / TOOLS
    folder.mkdir(exist_ok=True)
    for name in SCRIPTS:
        shutil.copyfile(Path(tools.__file__).with_name(name), folder / name)
    write_json(folder / INPUTS, described_inputs(bundle))


def described_inputs(bundle: Bundle) -> dict[str, Any]:
    """How to draw the model's inputs: per image, a shape, a type and what values are usual."""
    architecture = architecture_of(bundle.model_config)
    shape = architecture.sample_shape(bundle.model_config)
    conditions = architecture.conditions(bundle.model_config)
    return {
        "timesteps": bundle.timesteps.tolist(),
        "inputs": {
            SAMPLE: {"shape": list(shape), "dtype": "float32"},
            **{spec.name: _described(spec) for spec in conditions},
        },
    }


def _described(spec: Condition) -> dict[str, Any]:
    entry: dict[str, Any] = {"shape": list(spec.shape), "dtype": spec.dtype.__name__}
    if isinstance(spec, ClassLabels):
        entry["below"] = spec.classes
    elif isinstance(spec, Typical):
        entry["values"] = list(spec.values)
    return entry
