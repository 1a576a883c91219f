"""Names of results: hashes of everything that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...methods import Recipe
from ..registry import family_registration
from .grid import Cell

EPOCH = 4
"""Raise this by hand when the code of quantising, training or measuring comes to mean something
else: what was measured before is then measured anew."""
SINCE_EPOCH: tuple[str, ...] = (
    "scaling",
    "split_concatenations",
    "power_of_two",
    "tables",
    "temporal_rounding",
    "rounding",
    "cache",
    "bias_correction",
    "training.step_power",
    "training.step_memory",
    "power_of_two.samples",
    "scaling.images_per_step",
    "scaling.rows_per_fit",
    "scaling.largest_factor",
)
"""Fields of a recipe, with the stage's name before those of a stage, that are younger than the
epoch: at their defaults they mean what was measured without them, and stay out of the names."""
_PIPELINES = Path(__file__).parents[1]


@dataclass(frozen=True)
class Keys:
    """Of the bundle, of the full-precision reference, and of what is measured of both."""

    bundle: str
    reference: str
    result: str


def keys_of(cell: Cell) -> Keys:
    """Raises CheckpointError where the family's model or its judge is not there."""
    model = _files_digest(_model_files(cell))
    judge = _files_digest(_judge_files(cell))
    recipe = _deciding(cell.recipe)
    shared = {"epoch": EPOCH, "model": model, "num_steps": cell.num_steps, "seed": cell.seed}
    bundle = _key({**shared, "bits": cell.bits, "recipe": recipe})
    reference = _key({**shared, "judge": judge, "num_images": cell.num_images})
    result = _key({"bundle": bundle, "reference": reference, "measure": cell.measure.value})
    return Keys(bundle, reference, result)


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides what its bundles are."""
    content = recipe.model_dump(mode="json", exclude={"summary"})
    for path in SINCE_EPOCH:
        where, _, name = path.rpartition(".")
        choices, own = (getattr(recipe, where), content.get(where)) if where else (recipe, content)
        if own is None:
            continue
        field = type(choices).model_fields[name]
        if getattr(choices, name) == field.get_default(call_default_factory=True):
            del own[name]
    if not recipe.training.updates:
        del content["training"]
    return content


def _model_files(cell: Cell) -> list[Path]:
    files = [path for path in cell.checkpoint.rglob("*") if path.is_file()]
    if cell.checkpoint / "model_index.json" not in files:
        raise _missing(cell, "checkpoint", cell.checkpoint)
    return files


def _judge_files(cell: Cell) -> list[Path]:
    """The classifier's weights; what they are run on is the code's, and so the epoch's."""
    judge = family_registration(cell.family).judge
    if judge is None:
        raise CheckpointError(f"Nothing measures the images of the family '{cell.family}'")
    folder = _PIPELINES / judge.partition(".")[0]
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise _missing(cell, "classifier", folder)
    return files


def _missing(cell: Cell, what: str, where: Path) -> CheckpointError:
    return CheckpointError(
        f"The {what} of the family '{cell.family}' is not there",
        where=f"{where.parent.name}/{where.name}",  # reports hold no paths of this machine
        fix=f"Make it with: make {cell.family.replace('_', '-')}-checkpoint",
    )


def _files_digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _key(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
