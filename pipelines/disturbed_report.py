"""How far images move when nothing but independent noise is added to a model's predictions.

    python -m mpq_export.pipelines.disturbed_report digits --out docs/results

Writes ``NAME_disturbed.json`` and ``.md``. A quantised model whose predictions are off by as much
draws images about this far from full precision: what a model and its sampler make of an error is
theirs, not the quantiser's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from ..checkpoints import load_checkpoint
from ..cli import console
from ..evaluation.machine import describe_machine
from ..evaluation.report_files import machine_line, write_report
from ..schedulers import sampling_schedule
from .model_report import drawn, shipped_checkpoint
from .registry import load_judge

NUM_STEPS = 20
_NOISE_SEED = 5_000


class Steps(StrEnum):
    """Which of a sampler's steps are disturbed."""

    ALL = "all"
    FIRST = "the first"
    OTHERS = "all but the first"

    def hold(self, timestep: float, first: float) -> bool:
        """Whether the step of this timestep is one of them."""
        return self is Steps.ALL or (self is Steps.FIRST) == (timestep == first)


@dataclass(frozen=True)
class Disturbance:
    """Noise of so large a share of the prediction's root mean square, at these steps."""

    relative_error: float
    steps: Steps


DISTURBANCES = (
    *(Disturbance(share, Steps.ALL) for share in (0.035, 0.05, 0.08, 0.09, 0.1)),
    Disturbance(0.08, Steps.FIRST),
    Disturbance(0.08, Steps.OTHERS),
)


@contextmanager
def disturbed(model: nn.Module, disturbance: Disturbance, first: float) -> Iterator[None]:
    """A denoiser whose predictions carry noise while the context lasts.

    Args:
        model: a diffusers denoiser; its output's first element is the prediction.
        disturbance: how much, and at which steps.
        first: timestep of the sampler's first step.
    """
    generator = torch.Generator().manual_seed(_NOISE_SEED)

    signature = inspect.signature(model.forward)

    def add_noise(
        _model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        timestep = signature.bind(*inputs, **named).arguments["timestep"]
        if not disturbance.steps.hold(float(torch.as_tensor(timestep).max()), first):
            return
        prediction: torch.Tensor = output[0]
        noise = torch.randn(prediction.shape, generator=generator).to(prediction)
        prediction += disturbance.relative_error * prediction.square().mean().sqrt() * noise

    hook = model.register_forward_hook(add_noise, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def disturbed_report(
    family: str,
    folder: Path,
    num_images: int,
    seed: int,
    disturbances: Sequence[Disturbance] = DISTURBANCES,
) -> dict[str, Any]:
    """All figures of a checkpoint under every disturbance."""
    checkpoint, judge = load_checkpoint(folder), load_judge(family)
    schedule = sampling_schedule(checkpoint.scheduler_config, NUM_STEPS)
    first = float(schedule.timesteps[schedule.entries[0]])
    original = drawn(checkpoint, num_images, NUM_STEPS, seed)
    unpaired = judge.frechet(drawn(checkpoint, num_images, NUM_STEPS, seed + 1), original)
    rows = []
    for disturbance in disturbances:
        with disturbed(checkpoint.model, disturbance, first):
            images = drawn(checkpoint, num_images, NUM_STEPS, seed)
        quality = asdict(judge.measure(images, original))
        share = quality["frechet_full_precision"] / unpaired
        rows.append({**asdict(disturbance), **quality, "unpaired_share": share})
    return {
        "command": "python -m mpq_export.pipelines.disturbed_report "
        f"{family} --num-images {num_images} --seed {seed}",
        "machine": describe_machine(),
        "family": family,
        "scheduler": {
            name: checkpoint.scheduler_config.get(name)
            for name in ("_class_name", "beta_schedule", "timestep_spacing", "clip_sample")
        },
        "num_images": num_images,
        "num_steps": NUM_STEPS,
        "frechet_unpaired": unpaired,
        "rows": rows,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    scheduler = ", ".join(f"{name} {value}" for name, value in report["scheduler"].items())
    lines = [
        f"# {report['family']}: full precision with noise on its predictions",
        "",
        f"Command: `{report['command']}`. {report['num_images']} images in {report['num_steps']} "
        f"steps; scheduler: {scheduler}. {machine_line(report['machine'])}",
        "",
        "Noise is normal and independent at every step. FD and PSNR compare with the same model "
        "undisturbed, from the same noise; two undisturbed sets of other noise are the unpaired "
        f"ones (FD {report['frechet_unpaired']:.3f}).",
        "",
        "| relative error | at steps | FD to fp32 | of unpaired | PSNR (dB) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['relative_error']:g} | {row['steps']} | {row['frechet_full_precision']:.3f} | "
        f"{row['unpaired_share']:.1%} | {row['psnr_full_precision']:.1f} |"
        for row in report["rows"]
    ]
    return "\n".join(lines) + "\n"


def main(
    family: Annotated[str, typer.Argument(help="Name of a family whose checkpoint ships.")],
    out: Annotated[Path, typer.Option(help="Folder of the figures.")] = Path("docs/results"),
    num_images: Annotated[int, typer.Option(min=100, help="Images that are judged.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the noise that images start from.")] = 10_000,
) -> None:
    """Disturb a shipped model's predictions and see how far its images move."""
    report = disturbed_report(family, shipped_checkpoint(family), num_images, seed)
    text = markdown(report)
    write_report(out, f"{family}_disturbed", report, text)
    console.say_lines(text)


if __name__ == "__main__":
    console.run(main, "")
