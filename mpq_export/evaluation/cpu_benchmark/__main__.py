"""``python -m mpq_export.evaluation.cpu_benchmark --out docs/results``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ...cli import console
from ...errors import UserError
from ...files import staged_file
from ...packages import installed_version
from ..machine import describe_machine
from .artefacts import artefact
from .backends import BACKENDS, OURS, Backend
from .models import MODELS, BenchmarkModel
from .records import read_record, record_path, write_record
from .report import markdown, merged, read_rows, rows_of, write_report
from .sittings import Sitting, hold, plan

Entry = TypeVar("Entry")


def main(
    out: Annotated[Path, typer.Option(help="Folder of cpu.json and cpu.md.")],
    model: Annotated[
        list[str] | None, typer.Option(help=f"Only these of {', '.join(MODELS)}.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Only these of {', '.join(BACKENDS)}; all of ours unless some are named."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Only this batch.")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Timed steps of each backend.")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="Threads, and processors.")] = 2,
    work: Annotated[Path, typer.Option(help="Folder of exports and finished measurements.")] = Path(
        "out/bench-cpu"
    ),
    again: Annotated[
        bool, typer.Option("--again", help="Measure what has been measured before, too.")
    ] = False,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Instead: ours layer by layer, as cpu_layers_MODEL.md."),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Instead: ours by operator, as cpu_operators_MODEL.md."),
    ] = False,
) -> None:
    """Measure; with ``--model`` and ``--backend`` other rows of OUT stay as they are."""
    models = _chosen(MODELS, model, "--model")
    backends = _chosen(BACKENDS, backend, "--backend")
    processors = _processors(threads)
    if layers or profile:
        _write_profiles(out, models, backends, batch, processors, rounds, work, layers, profile)
        return
    setting = {
        "machine": {**describe_machine(), **_versions(), **_limits()},
        "threads": threads,
        "rounds": rounds,
    }
    for sitting in plan(models, backends):
        if batch is None or sitting.batch == batch:
            _measure(sitting, out, setting, processors, work, again)


def _measure(
    sitting: Sitting,
    out: Path,
    setting: Mapping[str, Any],
    processors: Sequence[int],
    work: Path,
    again: bool,
) -> None:
    rounds = setting["rounds"]
    path = record_path(sitting, setting["machine"], len(processors), rounds, work)
    cells = None if again else read_record(path)
    if cells is None:
        console.remark(sitting.label)
        with console.TaskProgress() as progress:
            cells = hold(sitting, work, processors, rounds, progress)
        write_record(path, cells)
    rows = merged(read_rows(out, setting), rows_of(sitting, cells))
    write_report(out, rows, setting)
    for line in markdown(rows_of(sitting, cells), setting).splitlines():
        if line.startswith(("|", "-")):
            console.say(line)


def _write_profiles(
    out: Path,
    models: Sequence[BenchmarkModel],
    backends: Sequence[Backend],
    batch: int | None,
    processors: Sequence[int],
    steps: int,
    work: Path,
    layers: bool,
    profile: bool,
) -> None:
    """Profile ours in this process, which has loaded no library yet."""
    os.sched_setaffinity(0, processors)
    os.environ["OMP_NUM_THREADS"] = str(len(processors))
    from ..profiling.layers import layer_table, operator_table, profile_bundle

    for one in models:
        tables: dict[str, list[str]] = {"layers": [], "operators": []}
        for ours in (entry for entry in OURS if entry in backends):
            folder = artefact(one, ours.artefact, work)
            for images in one.batches:
                if batch is None or images == batch:
                    measured = profile_bundle(folder / "bundle", images, steps)
                    title = f"{one.name}, {ours.title}, batch {images}"
                    tables["layers"].append(layer_table(title, measured, len(processors)))
                    tables["operators"].append(operator_table(title, measured))
        for name, wanted in (("layers", layers), ("operators", profile)):
            if wanted:
                text = "\n".join(tables[name])
                with staged_file(out / f"cpu_{name}_{one.name}.md") as stage:
                    stage.write_text(text, encoding="utf-8")
                console.say_lines(text)


def _chosen(known: Mapping[str, Entry], names: list[str] | None, option: str) -> list[Entry]:
    unknown = sorted(set(names or ()) - known.keys())
    if unknown:
        raise UserError(
            f"There is no {', '.join(unknown)}", where=option, fix=f"Known: {', '.join(known)}"
        )
    return [entry for name, entry in known.items() if names is None or name in names]


def _processors(count: int) -> list[int]:
    """The first processors that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    if count > len(usable):
        raise UserError(
            f"{count} threads need as many processors",
            where="--threads",
            why=f"This process may use {len(usable)}",
        )
    return usable[:count]


def _limits() -> dict[str, str]:
    """Variables that keep ours and oneDNN from the processor's newest instructions."""
    names = ("MPQ_CPU_KERNELS", "ONEDNN_MAX_CPU_ISA")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _versions() -> dict[str, str]:
    names = ("openvino", "nncf", "torchao")
    return {name: installed_version(name) or "not installed" for name in names}


if __name__ == "__main__":
    console.run(main, console.examples("python -m mpq_export.evaluation.cpu_benchmark --out out"))
