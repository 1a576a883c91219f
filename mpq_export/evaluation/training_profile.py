"""What an update of quantisation-aware training spends its time on.

    python -m mpq_export.evaluation.training_profile --ckpt pipelines/digits/checkpoint

Writes ``training_profile.json`` and ``.md``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from torch.profiler import ProfilerActivity, profile

from ..checkpoints import load_checkpoint
from ..cli import console
from ..export import export_checkpoint
from ..export_request import ExportRequest
from ..methods import DEFAULT_METHOD, recipe_of
from ..precision import BitSpec
from .machine import describe_machine
from .report_files import machine_line, write_report

_NUM_STEPS = 20
_GROUPS = {
    "convolutions and matrix products, forward and back": (
        "aten::convolution",
        "aten::convolution_backward",
        "aten::linear",
        "aten::addmm",
        "aten::mm",
        "aten::bmm",
        "aten::scaled_dot_product_attention",
    ),
    "activations to integers": ("_ActivationIntegers",),
    "activations to integers, gradients": ("_ActivationIntegersBackward",),
    "weights to integers": ("_WeightIntegers",),
    "weights to integers, gradients": ("_WeightIntegersBackward",),
    "epilogues": ("_Epilogue",),
    "epilogues, gradients": ("_EpilogueBackward",),
    "normalisations and SiLU, forward and back": (
        "aten::group_norm",
        "aten::layer_norm",
        "aten::silu",
        "aten::native_group_norm_backward",
        "aten::native_layer_norm_backward",
        "aten::silu_backward",
    ),
    "Adam": ("Optimizer.step#Adam.step",),
}
QUANTISER = ("activations to integers", "weights to integers", "epilogues")
"""The quantiser's forward pass."""


class ProfiledTraining:
    """A progress reporter that profiles the task of training, and no other."""

    def __init__(self) -> None:
        self.profile = profile(activities=[ProfilerActivity.CPU])
        self._running = False

    def start(self, task: str, total: int) -> None:
        """A task begins: the one before has ended."""
        if self._running:
            self.profile.stop()
        self._running = task == "train"
        if self._running:
            self.profile.start()

    def advance(self, parts: int = 1) -> None:
        """Nothing to say."""

    def note(self, text: str) -> None:
        """Nothing to say."""


def shares(times: Mapping[str, float]) -> dict[str, float]:
    """Of all time, what each group of operators takes, from seconds by operator.

    ``times`` are of operators with what they call, but for ``total``, which is of all.
    """
    groups = {name: sum(times.get(key, 0.0) for key in keys) for name, keys in _GROUPS.items()}
    groups["the rest"] = times["total"] - sum(groups.values())
    return {name: seconds / times["total"] for name, seconds in groups.items()}


def operator_seconds(profiled: profile) -> dict[str, float]:
    """Seconds of each operator with what it calls, and of all of them as ``total``."""
    events = profiled.key_averages()
    times = {event.key: event.cpu_time_total / 1e6 for event in events}
    return times | {"total": sum(event.self_cpu_time_total for event in events) / 1e6}


def profiled_training(
    checkpoint: Path, method: str, bits: str, updates: int, seed: int
) -> dict[str, Any]:
    """The report of a short training run."""
    recipe, progress = recipe_of(method).trained_for(updates), ProfiledTraining()
    with tempfile.TemporaryDirectory() as folder:
        request = ExportRequest(
            BitSpec.parse(bits), recipe, (), _NUM_STEPS, seed, Path(folder) / "bundle"
        )
        export_checkpoint(load_checkpoint(checkpoint), request, progress)
    times = operator_seconds(progress.profile)
    parts = shares(times)
    return {
        "command": "python -m mpq_export.evaluation.training_profile "
        f"--ckpt {checkpoint} --method {method} --bits {bits} --updates {updates} --seed {seed}",
        "machine": describe_machine(),
        "updates": updates,
        "seconds_per_update": times["total"] / updates,
        "shares": parts,
        "quantiser_forward": sum(parts[name] for name in QUANTISER),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a table."""
    lines = [
        "# Where an update of training spends its time",
        "",
        f"Command: `{report['command']}`. {report['updates']} updates, teacher's forward included; "
        f"under the profiler {report['seconds_per_update']:.2f} s each. "
        + machine_line(report["machine"]),
        "",
        f"The quantiser's forward pass takes {report['quantiser_forward']:.0%}.",
        "",
        "| | share |",
        "|---|---|",
    ]
    lines += [f"| {name} | {share:.1%} |" for name, share in report["shares"].items()]
    return "\n".join(lines) + "\n"


def main(
    ckpt: Annotated[Path, typer.Option(help="A checkpoint's folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the figures.")] = Path("docs/results"),
    method: Annotated[str, typer.Option(help="Whose training.")] = DEFAULT_METHOD,
    bits: Annotated[str, typer.Option(help="Such as w3a4.")] = "w3a4",
    updates: Annotated[int, typer.Option(min=2, help="Updates that are profiled.")] = 30,
    seed: Annotated[int, typer.Option(help="Of calibration and training.")] = 0,
) -> None:
    """Profile a short training run."""
    report = profiled_training(ckpt, method, bits, updates, seed)
    text = markdown(report)
    write_report(out, "training_profile", report, text)
    console.say_lines(text)


if __name__ == "__main__":
    console.run(main, "")
