"""A copy of a bundle that is lowered to packed nodes."""

from pathlib import Path

from ....bundle import read_bundle
from ....cli import console
from ....export import export_bundle
from ....lowering.names import Target


def make(source: Path, folder: Path) -> None:
    """Lower for ONNX Runtime."""
    with console.TaskProgress() as progress:
        export_bundle(read_bundle(source / "bundle"), (Target.ORT,), folder / "bundle", progress)
