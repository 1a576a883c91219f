"""``mpq-sample``: images from a bundle."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RecipeError
from ..runtimes.names import Runtime
from ..samplers.names import SchedulerName, with_scheduler
from . import console

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..folder_drawing import FolderRun
    from ..pipelines.registry import DrawRequest
    from ..runtimes.selection import Selection

EPILOG = console.examples(
    "mpq-sample out/digits-w3a4 --num-images 40 --out grid.png",
    "mpq-sample out/digits-w3a4 --num-images 100 --steps 50 --runtime torch --out grid.png",
    "mpq-sample out/digits-w3a4 --scheduler dpmsolver++ --steps 10 --out grid.png",
    'mpq-sample out/sd-w4a8 --prompt "a red fox in the snow" --num-images 1 --out fox.png',
    "mpq-sample out/digits-w3a4 --num-images 50000 --images out/images",
    "torchrun --nproc-per-node 8 -m mpq_export.cli.sample out/digits-w3a4 --num-images 50000 "
    "--images out/images",
)
_LARGEST_GRID = 100_000


def sample(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Image file for the grid; default: grid.png.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many images.")] = 40,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a grid: a folder for the images, one by one. The same command goes on "
            "in it where it was stopped."
        ),
    ] = None,
    save_reference: Annotated[
        Path | None,
        typer.Option(
            help="With --images: a file of statistics of the images. With --ckpt it is full "
            "precision's, for mpq-check --reference; the bundle's own serves no gate."
        ),
    ] = None,
    ckpt: Annotated[
        str | None,
        typer.Option(
            help="With --images: draw with the original checkpoint (folder or hub id) in the "
            "bundle's place, from the same noise."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Sampler steps; default: those of the bundle's tables."),
    ] = None,
    scheduler: Annotated[
        SchedulerName | None,
        typer.Option(help="Another scheduler with the bundle's noise schedule."),
    ] = None,
    runtime: Annotated[
        Runtime | None, typer.Option(help="Where the denoiser runs; default: ort.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=console.LARGEST_SEED, help="Seed of the noise.")
    ] = 0,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What to draw, for text models; several are used in turn."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file, a prompt per line, used in turn.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance scale; default: the pipeline's own."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Draw images with a quantised model and write them as one grid, or into a folder.

    Where torch or diffusers is not installed, the same sampler runs in numpy. Into a folder, image
    N depends on the seed and N alone: accelerate launch and torchrun share the work among
    processes and machines that see the folder.
    """
    from ..bundle import read_bundle
    from ..files import text_lines
    from ..pipelines.registry import DrawRequest
    from ..sampling import untabled_steps

    _require_folder_for(images, {"--save-reference": save_reference, "--ckpt": ckpt}, num_images)
    _require_grid_for(images, out)
    ran_by = _runtime(runtime, ckpt)
    grid = out or Path("grid.png")
    if images is None:
        from ..pipelines.images import require_image_path

        require_image_path(grid)
    texts = [*(prompt or ()), *(() if prompts is None else text_lines(prompts))]
    opened = read_bundle(bundle)
    opened = replace(opened, scheduler_config=with_scheduler(opened.scheduler_config, scheduler))
    num_steps = len(opened.timesteps) if steps is None else steps
    request = DrawRequest(num_images, num_steps, seed, tuple(texts), guidance)
    report = {
        "bundle": str(bundle),
        "runtime": ran_by.value,
        "scheduler": opened.scheduler_config.get("_class_name"),
        "num_images": num_images,
        "steps": num_steps,
    }
    untabled = untabled_steps(opened, num_steps)
    if untabled:
        console.remark(
            f"At {len(untabled)} of the sampler's timesteps the temporal features are those of the "
            f"nearest of the {len(opened.timesteps)} steps in the bundle's table, which is farther "
            "from full precision. Quantise with --inference-steps for these steps, or with "
            "cache: null in a recipe."
        )
    if images is None:
        found, said = _draw_grid(opened, ran_by, request, grid)
    else:
        found, said = _fill_folder(opened, ran_by, ckpt, request, images, save_reference)
    if as_json:
        console.print_json(report | found)
    else:
        console.say(said)


def _require_folder_for(images: Path | None, options: dict[str, Any], num_images: int) -> None:
    """Options of a folder are not passed over in silence where a grid is asked for."""
    named = [name for name, value in options.items() if value is not None]
    if images is None and named:
        raise RecipeError(
            f"{' and '.join(named)} is of images in a folder",
            where=named[0],
            fix="Give a folder with --images, or leave it out",
        )
    if images is None and num_images > _LARGEST_GRID:
        raise RecipeError(
            "So many images are no grid",
            where="--num-images",
            why=f"{num_images} are more than {_LARGEST_GRID}",
            fix="Write them into a folder with --images",
        )


def _require_grid_for(images: Path | None, out: Path | None) -> None:
    """A grid is of one process, and not beside a folder."""
    from ..processes import launched_share

    if images is not None and out is not None:
        raise RecipeError(
            "--out is of a grid, and --images is given in its place",
            where="--out",
            fix="Leave one of them out",
        )
    if images is None and launched_share().count > 1:
        raise RecipeError(
            "Several processes draw no grid",
            where="--out",
            why="Each would draw all of it and write the same file",
            fix="Share the work in a folder with --images, or start one process",
        )


def _runtime(asked: Runtime | None, ckpt: str | None) -> Runtime:
    """Where the denoiser runs: that of a checkpoint in torch, and nowhere else."""
    if ckpt is None:
        return asked or Runtime.ORT
    if asked not in (None, Runtime.TORCH):
        raise RecipeError(
            "A checkpoint runs in torch alone",
            where="--runtime",
            why=f"{asked.value} runs the bundle, and --ckpt draws in its place",
            fix="Leave out --runtime, or --ckpt",
        )
    return Runtime.TORCH


def _draw_grid(
    bundle: Bundle, runtime: Runtime, request: DrawRequest, out: Path
) -> tuple[dict[str, Any], str]:
    """What there is to report, and to say."""
    from ..pipelines.images import save_grid
    from ..runtimes.selection import select
    from ..sampling import draw_images, loop_of

    started, ran = time.perf_counter(), select(runtime)

    def on_drawn(selection: Selection) -> None:
        nonlocal ran
        ran = selection

    with console.TaskProgress() as progress:
        drawn = draw_images(bundle, runtime, request, progress, on_drawn)
    save_grid(drawn, out)
    found = {**_ran(ran), "sampler": loop_of(bundle).value, "out": str(out), **_since(started)}
    said = (
        f"{request.num_images} images in {request.num_steps} steps, {found['seconds']} s "
        f"(sampler: {found['sampler']}, runtime: {ran}): {out}"
    )
    return found, said


def _fill_folder(
    bundle: Bundle,
    runtime: Runtime,
    ckpt: str | None,
    request: DrawRequest,
    folder: Path,
    reference: Path | None,
) -> tuple[dict[str, Any], str]:
    """What there is to report, and to say."""
    from ..folder_drawing import fill_folder
    from ..processes import launched_share, take_own_gpu
    from ..training.launch import remark_on_processes

    started, share = time.perf_counter(), launched_share()
    take_own_gpu()
    if (remark := remark_on_processes("draws")) is not None:
        console.remark(remark)
    with console.TaskProgress() as progress:
        run = fill_folder(bundle, runtime, ckpt, request, folder, share, reference, progress)
    found = {
        **_ran(run.selection),
        "sampler": run.sampler,
        "images": str(folder),
        "drawn": run.drawn,
        "share": str(share),
        "reference": str(reference) if run.reference is not None else None,
        "reference_note": run.unjudged or None,
        **_since(started),
    }
    said = (
        f"{run.drawn} of {request.num_images} images drawn in {request.num_steps} steps, "
        f"{found['seconds']} s (sampler: {run.sampler}, runtime: {run.selection}, "
        f"share {share}): {folder}"
    )
    if reference is not None:
        said = f"{said}; {_said_of_reference(run, reference)}"
    return found, said


def _said_of_reference(run: FolderRun, path: Path) -> str:
    if run.reference is None:
        return "the last process to end will write the reference"
    if run.unjudged:
        return f"reference: {path} (the first images alone: {run.unjudged})"
    return f"reference: {path}"


def _ran(selection: Selection) -> dict[str, Any]:
    return {"runs": selection.runs.value, "runs_note": selection.note}


def _since(started: float) -> dict[str, float]:
    return {"seconds": round(time.perf_counter() - started, 2)}


def main() -> None:
    """Entry point."""
    console.run(sample, EPILOG)


if __name__ == "__main__":
    main()
