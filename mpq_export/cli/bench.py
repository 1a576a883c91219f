"""``mpq-bench``: what do bundles cost, what do they give, and why are they not faster?"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..runtimes.names import Runtime
from . import console

if TYPE_CHECKING:
    from ..evaluation.bench.rows import Kind

EPILOG = console.examples(
    "mpq-bench out/digits-w3a4 --ckpt pipelines/digits/checkpoint --out out/bench",
    "mpq-bench out/w4a8 out/w3a4 out/w2a4 --ckpt CHECKPOINT --num-images 1000 --out out/bench",
    "mpq-bench out/digits-w3a4 --runtime ort --runtime ort-portable --out out/bench",
)


def bench(
    bundle: Annotated[list[Path], typer.Argument(help="Folders of bundles of one model.")],
    out: Annotated[Path, typer.Option(help="Folder of the report and of finished parts.")],
    ckpt: Annotated[
        str | None,
        typer.Option(
            help="The original checkpoint (folder or hub id): what baselines are made of, and what "
            "images are compared with."
        ),
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(help="fp32, or fp32,int8; default: both if there is a checkpoint."),
    ] = None,
    runtime: Annotated[
        list[Runtime] | None, typer.Option(help="Where bundles run; several are compared.")
    ] = None,
    num_images: Annotated[
        int, typer.Option(min=2, max=100_000, help="Images that are judged, per row.")
    ] = 500,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Sampler steps; default: those of the first bundle's tables."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=2, max=10_000, help="Timed steps and drawings of every row.")
    ] = 30,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Images per timed step.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads, and processors; default: all.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=console.LARGEST_SEED, help="Seed of the noise.")
    ] = 0,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What to draw, for text models; several are used in turn."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance scale; default: the pipeline's own."),
    ] = None,
    name: Annotated[str, typer.Option(help="What the report's files are called.")] = "report",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Latency, memory, size and image quality of bundles, beside full precision and int8.

    Rows run in processes of their own, in turns. The same command again goes on where it was
    stopped: what is finished lies in OUT/cache, named by its content. Exit code 1 where a row
    failed.
    """
    from ..bundle import read_bundle
    from ..evaluation.bench.pages import page_files, write_pages
    from ..evaluation.bench.request_checks import require_outputs
    from ..evaluation.bench.run import BenchRequest, require_answerable, run_bench
    from ..pipelines.registry import DrawRequest

    _require_file_name(name)
    bundles = tuple(read_bundle(folder) for folder in bundle)
    num_steps = len(bundles[0].timesteps) if steps is None else steps
    request = BenchRequest(
        bundles,
        tuple(dict.fromkeys(runtime or (Runtime.ORT,))),
        _kinds(baselines, ckpt),
        ckpt,
        DrawRequest(num_images, num_steps, seed, tuple(prompt or ()), guidance),
        batch,
        rounds,
        _processors(threads),
        shlex.join(["mpq-bench", *sys.argv[1:]]),
    )
    require_answerable(request)
    require_outputs(out, page_files(name))
    with console.TaskProgress() as progress:
        finished = run_bench(request, out, progress)
    write_pages(finished, out, name)
    if as_json:
        console.print_json(finished.report.model_dump())
    else:
        console.say_lines((out / f"{name}.md").read_text(encoding="utf-8"))
        console.say(f"{out / f'{name}.html'} shows all of it.")
    if any(row.failure is not None for row in finished.report.rows):
        raise typer.Exit(1)


def _kinds(baselines: str | None, ckpt: str | None) -> tuple[Kind, ...]:
    """The baselines that are asked for; full precision is what the rest is measured against."""
    from ..evaluation.bench.rows import BASELINES, Kind

    if baselines is None:
        return BASELINES if ckpt is not None else ()
    names = [name.strip() for name in baselines.split(",") if name.strip()]
    known = [kind.value for kind in BASELINES]
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise UserError(
            f"There is no baseline {', '.join(unknown)}" if unknown else "No baseline is named",
            where="--baselines",
            fix=f"Known: {', '.join(known)}",
        )
    if Kind.FP32 not in names:
        raise UserError(
            "Full precision is not among the baselines",
            where="--baselines",
            why="Images and predictions of all others are compared with it, and int8 is made of it",
            fix="Write fp32,int8",
        )
    return tuple(kind for kind in BASELINES if kind.value in names)


def _require_file_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(
            f"'{name}' cannot be the name of the report's files",
            where="--name",
            fix="Use letters, digits, dots, dashes and underscores",
        )


def _processors(threads: int | None) -> tuple[int, ...]:
    """The first processors that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    if threads is not None and threads > len(usable):
        raise UserError(
            f"{threads} threads need as many processors",
            where="--threads",
            why=f"This process may use {len(usable)}",
            fix=f"Ask for up to {len(usable)}, or leave --threads out",
        )
    return tuple(usable[:threads])


def main() -> None:
    """Entry point."""
    console.run(bench, EPILOG)


if __name__ == "__main__":
    main()
