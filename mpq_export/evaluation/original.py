"""The checkpoint that a bundle was made of, as what the bundle is compared with.

Configs tell architectures apart, not trainings: weights are not compared, since a bundle keeps no
digest of those that it was made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle
from ..errors import CheckpointError

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint


def config_sha256(config: Mapping[str, Any]) -> str:
    """Of a component's config, without what diffusers notes there of files and versions."""
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def load_original(bundle: Bundle, ckpt: str) -> Checkpoint:
    """A checkpoint of the bundle's architecture; raises CheckpointError if it is of another."""
    from ..checkpoints import load_checkpoint

    checkpoint = load_checkpoint(ckpt)
    require_same_model(bundle, checkpoint)
    return checkpoint


def require_same_model(bundle: Bundle, checkpoint: Checkpoint) -> None:
    """Layers of another architecture have nothing to compare."""
    ours, theirs = bundle.model_config, checkpoint.model_config
    keys = sorted(key for key in {*ours, *theirs} if not key.startswith("_"))
    different = [key for key in keys if ours.get(key) != theirs.get(key)]
    if different:
        raise CheckpointError(
            "The checkpoint is of another architecture than the bundle",
            where=checkpoint.source,
            why=f"Its config differs in {', '.join(different[:3])}",
            fix=f"The bundle was made from '{bundle.quantization.source}'",
        )
