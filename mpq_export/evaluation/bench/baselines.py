"""``python -m mpq_export.evaluation.bench.baselines KIND SOURCE FOLDER [TRAJECTORY]``.

Full precision and int8 of a checkpoint, each made in a process of its own and kept by content.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

from ...cli import console
from ...errors import UserError
from ..timing.failures import one_line
from ..timing.making import CannotBeMade, make_apart
from .rows import Kind, Row, baseline_row
from .store import Store
from .trajectory import Trajectory

_TRACED = "traced"


def full_precision(store: Store, source: str, parts: dict[str, Any], threads: int) -> Row:
    """The row of full precision in ONNX Runtime; ``parts`` name the checkpoint's content."""

    def make(kind: str, of: str | Path) -> Any:
        return lambda folder: _made(kind, str(of), folder, threads)

    traced = store.made(_TRACED, parts, make(_TRACED, source))
    folder = store.made(Kind.FP32, {**parts, "of": traced.name}, make(Kind.FP32, traced))
    return baseline_row(Kind.FP32, folder)


def static_int8(store: Store, fp32: Row, trajectory: Path, threads: int) -> Row:
    """The row of ONNX Runtime's int8, its ranges fitted to full precision's own trajectory."""

    def make(folder: Path) -> None:
        _made(Kind.INT8, str(fp32.folder), folder, threads, str(trajectory))

    parts = {"of": fp32.folder.name, "draws": trajectory.parent.name}
    return baseline_row(Kind.INT8, store.made(Kind.INT8, parts, make))


def _made(kind: str, source: str, folder: Path, threads: int, *words: str) -> None:
    """Make an artefact apart; a library's failure is the user's to know."""
    try:
        make_apart(__name__, kind, source, str(folder), *words, threads=threads)
    except CannotBeMade as error:
        raise UserError(
            f"The baseline {kind} cannot be made",
            where=source,
            why=str(error),
            fix="Leave it out of --baselines, or leave out --ckpt",
        ) from error


def main(kind: str, source: str, folder: str, *words: str) -> None:
    """Make one; the last line on stderr says what went wrong."""
    console.quiet_libraries()
    try:
        if kind == _TRACED:
            from ..baselines import fp32_onnx

            fp32_onnx.make(source, Path(folder))
        elif kind == Kind.FP32:
            from ..baselines import onnxruntime_form

            onnxruntime_form.make(Path(source), Path(folder))
        else:
            from ..baselines import int8_onnx

            draws = Trajectory.read(Path(words[0])).graph_inputs()
            int8_onnx.make(Path(source), Path(folder), draws)
    except Exception as error:  # libraries raise anything, and messages of pages
        traceback.print_exc()
        sys.exit(one_line(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
