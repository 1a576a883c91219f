"""``mpq-sample``: images from a bundle."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..runtimes.names import Runtime
from ..samplers.names import SchedulerName, with_scheduler
from . import console

EPILOG = console.examples(
    "mpq-sample out/digits-w3a4 --num-images 40 --out grid.png",
    "mpq-sample out/digits-w3a4 --num-images 100 --steps 50 --runtime torch --out grid.png",
    "mpq-sample out/digits-w3a4 --scheduler dpmsolver++ --steps 10 --out grid.png",
    'mpq-sample out/sd-w4a8 --prompt "a red fox in the snow" --num-images 1 --out fox.png',
)


def sample(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    out: Annotated[Path, typer.Option(help="Image file for the grid.")] = Path("grid.png"),
    num_images: Annotated[int, typer.Option(min=1, max=100_000, help="How many images.")] = 40,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Sampler steps; default: those of the bundle's tables."),
    ] = None,
    scheduler: Annotated[
        SchedulerName | None,
        typer.Option(help="Another scheduler with the bundle's noise schedule."),
    ] = None,
    runtime: Annotated[Runtime, typer.Option(help="Where the denoiser runs.")] = Runtime.ORT,
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Draw images with a quantised model and write them as one grid.

    Where torch or diffusers is not installed, the same sampler runs in numpy.
    """
    from ..bundle import read_bundle
    from ..pipelines.images import require_image_path, save_grid
    from ..pipelines.registry import DrawRequest
    from ..runtimes.selection import Selection, select
    from ..sampling import draw_images, loop_of

    require_image_path(out)
    ran = select(runtime)
    opened = read_bundle(bundle)
    opened = replace(opened, scheduler_config=with_scheduler(opened.scheduler_config, scheduler))
    num_steps = len(opened.timesteps) if steps is None else steps
    request = DrawRequest(num_images, num_steps, seed, tuple(prompt or ()), guidance)
    started = time.perf_counter()

    def on_drawn(selection: Selection) -> None:
        nonlocal ran
        ran = selection

    with console.TaskProgress() as progress:
        images = draw_images(opened, runtime, request, progress, on_drawn)
    save_grid(images, out)
    report = {
        "bundle": str(bundle),
        "runtime": runtime.value,
        "runs": ran.runs.value,
        "runs_note": ran.note,
        "sampler": loop_of(opened).value,
        "scheduler": opened.scheduler_config.get("_class_name"),
        "num_images": num_images,
        "steps": num_steps,
        "out": str(out),
        "seconds": round(time.perf_counter() - started, 2),
    }
    if as_json:
        console.print_json(report)
    else:
        console.say(
            f"{num_images} images in {report['steps']} steps, {report['seconds']} s "
            f"(sampler: {report['sampler']}, runtime: {ran}): {out}"
        )


def main() -> None:
    """Entry point."""
    console.run(sample, EPILOG)


if __name__ == "__main__":
    main()
