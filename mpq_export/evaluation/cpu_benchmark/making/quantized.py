"""A bundle by plain rounding; its speed does not depend on which method rounded."""

from pathlib import Path

from ....checkpoints import load_checkpoint
from ....cli import console
from ....export import export_checkpoint
from ....export_request import ExportRequest
from ....methods import recipe_of
from ....precision import BitSpec

_STEPS = 1


def make(source: Path, folder: Path, bits: str) -> None:
    """Quantise the checkpoint ``source``, with one calibration step and no training."""
    recipe = recipe_of("rtn").trained_for(0)
    request = ExportRequest(BitSpec.parse(bits), recipe, (), _STEPS, 0, folder / "bundle")
    with console.TaskProgress() as progress:
        export_checkpoint(load_checkpoint(source), request, progress)
