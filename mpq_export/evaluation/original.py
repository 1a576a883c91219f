"""The checkpoint that a bundle was made of, as what the bundle is compared with."""

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
    """The bundle's own checkpoint; raises CheckpointError if it is another one."""
    from ..checkpoints import load_checkpoint

    checkpoint = load_checkpoint(ckpt)
    require_same_architecture(bundle, checkpoint)
    _require_same_weights(bundle, checkpoint)
    return checkpoint


def require_same_architecture(bundle: Bundle, checkpoint: Checkpoint) -> None:
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


def _require_same_weights(bundle: Bundle, checkpoint: Checkpoint) -> None:
    """Other weights differ by more than quantisation. Bundles that keep no digest take any."""
    from ..checkpoints.weights import record_weights

    kept = bundle.quantization.source_sha256
    if kept is not None and record_weights(checkpoint.model).sha256 != kept:
        raise CheckpointError(
            "The checkpoint's weights are not those that were quantised",
            where=checkpoint.source,
            why="It was trained further or anew, is of another precision, or other weights of it "
            "were taken, such as the averaged ones",
            fix=f"The bundle was made from '{bundle.quantization.source}'",
        )
