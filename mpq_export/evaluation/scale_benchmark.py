"""``make bench-scale``: what exporting a model of the literature takes, from checkpoint to check.

python -m mpq_export.evaluation.scale_benchmark --out docs/results

Each model gets random weights and goes through the commands a user types, as processes of their
own: ``mpq-export`` with one calibration step, then ``mpq-check`` of every node over one denoising
step in ONNX Runtime. Time and memory do not depend on what the weights are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..cli import console
from .literature import MODELS, LiteratureModel
from .machine import describe_machine
from .report_files import machine_line, write_report

_NAMES = ("Stable Diffusion 1.x UNet", "DiT-XL/2 256")
_BITS = "w4a8"


@dataclass(frozen=True)
class Command:
    """A command's report, wall seconds, and largest resident memory in bytes."""

    report: dict[str, Any]
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class ScaleRow:
    """One model: sizes in bytes, both commands' times and peaks, and the check's verdict."""

    model: str
    fp32_bytes: int
    packed_bytes: int
    export_seconds: float
    export_peak_bytes: int
    check_seconds: float
    check_peak_bytes: int
    nodes: int
    nodes_exact: int


def measure(model: LiteratureModel, folder: Path) -> ScaleRow:
    """Export and check one model in ``folder``, which needs room for its weights twice."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    _save_random(model, checkpoint)
    export = _run(
        "export", "--ckpt", checkpoint, "--bits", _BITS, "--inference-steps", 1,
        "--train-steps", 0, "--out", bundle,
    )  # fmt: skip
    check = _run("check", bundle, "--steps", 1, "--images", 1)
    return ScaleRow(
        model=model.name,
        fp32_bytes=export.report["fp32_bytes"],
        packed_bytes=export.report["packed_bytes"],
        export_seconds=export.seconds,
        export_peak_bytes=export.peak_bytes,
        check_seconds=check.seconds,
        check_peak_bytes=check.peak_bytes,
        nodes=check.report["nodes"],
        nodes_exact=check.report["nodes_exact"],
    )


def table(rows: Sequence[ScaleRow]) -> str:
    """Markdown."""
    lines = [
        "# Exporting a billion weights",
        "",
        f"Command: `make bench-scale`; {_BITS}, default method, one calibration step of 32 images.",
        machine_line(describe_machine()),
        "",
        "| model | fp32 MB | packed MB | export | peak memory | of fp32 | check | its peak | nodes "
        "equal to the reference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.model} | {row.fp32_bytes / 1e6:.0f} | {row.packed_bytes / 1e6:.1f} "
            f"| {row.export_seconds / 60:.1f} min | {row.export_peak_bytes / 1e9:.2f} GB "
            f"| {row.export_peak_bytes / row.fp32_bytes:.2f}x | {row.check_seconds / 60:.1f} min "
            f"| {row.check_peak_bytes / 1e9:.2f} GB | {row.nodes_exact} of {row.nodes} |"
        )
    lines += [
        "",
        "Peak memory is the largest resident memory of the whole process, the mapped checkpoint",
        "and torch included. The check runs one denoising step in ONNX Runtime and compares every",
        "packed node, bit for bit, with the numpy reference for the node's own input.",
    ]
    return "\n".join(lines) + "\n"


def _save_random(model: LiteratureModel, folder: Path) -> None:
    import diffusers
    import torch

    torch.manual_seed(0)
    cls = getattr(diffusers, model.config["_class_name"])
    cls.from_config(dict(model.config)).save_pretrained(folder)
    scheduler: Any = diffusers.DDIMScheduler()
    scheduler.save_pretrained(folder / "scheduler")


def _run(command: str, *words: object) -> Command:
    """A command in a process of its own; raises RuntimeError if it fails."""
    arguments = [sys.executable, "-m", f"mpq_export.cli.{command}", *map(str, words), "--json"]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(arguments, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        out.seek(0)
        text = out.read()
    if not text:
        raise RuntimeError(f"{' '.join(arguments)} failed with {process.returncode}")
    return Command(json.loads(text), seconds, usage.ru_maxrss * 1024)


def main(
    out: Annotated[Path, typer.Option(help="Folder of scale.md and scale.json.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder with 5 GB of room; default: the system's own.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Measure just these models.")] = None,
) -> None:
    """Measure the models one after the other; with ``--only`` others keep their rows in OUT."""
    rows = _rows(out / "scale.json") if only else {}
    for model in MODELS:
        if model.name in (only or _NAMES):
            with tempfile.TemporaryDirectory(dir=work) as folder:
                rows[model.name] = measure(model, Path(folder))
            for line in table([rows[model.name]]).splitlines():
                console.say(line)
    _write(out, list(rows.values()))


def _rows(path: Path) -> dict[str, ScaleRow]:
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return {row["model"]: ScaleRow(**row) for row in rows}


def _write(out: Path, rows: Sequence[ScaleRow]) -> None:
    figures = {"machine": describe_machine(), "rows": [asdict(row) for row in rows]}
    write_report(out, "scale", figures, table(rows))


if __name__ == "__main__":
    typer.run(main)
