"""What the gate says of a sound bundle, and of copies in which one layer's scales are 1.5 times as
large.

    python -m mpq_export.evaluation.gate_report --out docs/results

Writes ``gate.json`` and ``gate.md``. The copies are bundles with right hashes: node by node they
equal the reference of their own integers, so only images and the original model can tell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..bundle import Bundle
from ..checkpoints import Checkpoint, load_checkpoint
from ..cli import console
from ..export import export_bundle, export_checkpoint
from ..export_request import ExportRequest
from ..lowering.names import Target
from ..methods import recipe_of
from ..pipelines.model_report import shipped_checkpoint
from ..pipelines.registry import DrawRequest
from ..precision import BitSpec
from ..progress import ProgressReporter, Silence
from ..runtimes.names import Runtime
from .check import CheckReport, check_bundle
from .gate import GateReport, Limits, draw_reference, pass_through_gate
from .machine import describe_machine
from .report_files import machine_line, write_report

COMMAND = "python -m mpq_export.evaluation.gate_report --out docs/results"
FACTOR = 1.5
BROKEN = (
    "up_blocks.2.resnets.1.conv2",
    "conv_out",
    "down_blocks.1.attentions.0.to_v",
    "up_blocks.1.resnets.0.conv1",
)
LIMITS = Limits(frechet_increase=0.15, psnr=18.0, accuracy_drop=0.02)
_BITS, _METHOD, _STEPS, _RESTORED = BitSpec(4, 8), "mpq-dm", 20, 5


@dataclass(frozen=True)
class Row:
    """A bundle, what was done to it (None: nothing), and what was said of it."""

    broken: str | None
    check: CheckReport
    gate: GateReport


def with_scaled_layer(bundle: Bundle, name: str, factor: float, folder: Path) -> Bundle:
    """A copy of a bundle in ``folder``, hashes right, with one layer's scales times a factor."""
    layer = bundle.layers[name]
    scale = (layer.weight.scale * np.float32(factor)).astype(np.float32)
    changed = replace(layer, weight=replace(layer.weight, scale=scale))
    wrong = replace(bundle, layers={**bundle.layers, name: changed})
    return export_bundle(wrong, (Target.ORT,), folder, Silence())


def measure(
    num_images: int, broken: Sequence[str], folder: Path, progress: ProgressReporter
) -> Iterator[Row]:
    """The sound bundle, then one copy after another."""
    recipe = recipe_of(_METHOD).trained_for(0)
    request = ExportRequest(_BITS, recipe, (Target.ORT,), _STEPS, 0, folder / "sound")
    checkpoint = shipped_checkpoint("digits")
    sound = export_checkpoint(load_checkpoint(checkpoint), request, progress)
    assert sound is not None
    original = load_checkpoint(checkpoint)
    drawing = DrawRequest(num_images, _STEPS, 0)
    reference = draw_reference(sound, original, drawing, progress)

    def row(bundle: Bundle, name: str | None) -> Row:
        gate = pass_through_gate(bundle, Runtime.ORT, reference, LIMITS, progress)
        return Row(name, _checked(bundle, original, progress), gate)

    yield row(sound, None)
    for name in broken:
        yield row(with_scaled_layer(sound, name, FACTOR, folder / "broken"), name)


def _checked(bundle: Bundle, original: Checkpoint, progress: ProgressReporter) -> CheckReport:
    return check_bundle(bundle, Runtime.ORT, original, 3, 2, 0, progress, _RESTORED)


def _record(row: Row) -> dict[str, Any]:
    return {
        "broken": row.broken,
        "nodes_equal_the_reference": row.check.passed,
        "gate": asdict(row.gate) | {"passed": row.gate.passed},
        "lowest_snr": [asdict(node) for node in row.check.worst(_RESTORED)],
        "blame": asdict(row.check.blame) if row.check.blame else None,
    }


def text(rows: Sequence[Row]) -> str:
    """The report as Markdown."""
    lines = [
        "# The gate, tried on bundles that are broken on purpose",
        "",
        f"Command: `{COMMAND}`. The digits model at {_BITS} by {_METHOD}, and copies in which the "
        f"scales of one layer are {FACTOR:g} times as large; their hashes are right and every node "
        "equals the reference of its own integers. Limits: Frechet distance to data at most "
        f"{LIMITS.frechet_increase:.0%} above full precision's, PSNR at least {LIMITS.psnr:g} dB, "
        f"accuracy at most {LIMITS.accuracy_drop:.0%} lower; {rows[0].gate.drawn.images} images.",
        "",
        machine_line(describe_machine()),
        "",
        "| broken layer | gate | Frechet increase | PSNR (dB) | accuracy drop | lowest signal to "
        f"noise | named first of {_RESTORED} restored | of the squared error gone with it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rise, ratio, drop = (verdict.measured for verdict in row.gate.verdicts)
        (worst,) = row.check.worst(1)
        assert row.check.blame is not None
        first = row.check.blame.costs[0]
        lines.append(
            f"| {row.broken or 'none'} | {'passed' if row.gate.passed else '**FAILED**'} | "
            f"{rise:+.1%} | {ratio:.1f} | {drop:.1%} | {worst.name} {worst.output_snr_db:.1f} dB | "
            f"{first.name} | {first.gain:.1%} |"
        )
    lines += [
        "",
        "A convolution whose output a group normalisation reads may be scaled with hardly any harm "
        "to an image: the gate passes it, while the layer's own signal to noise and the restoring "
        "still name it.",
        "",
    ]
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("docs/results"),
    num_images: Annotated[int, typer.Option(min=64, help="Images of the limits.")] = 200,
) -> None:
    """Measure, and write the report."""
    with tempfile.TemporaryDirectory() as folder, console.TaskProgress() as progress:
        rows = list(measure(num_images, BROKEN, Path(folder), progress))
    record = {"command": COMMAND, "machine": describe_machine(), "rows": list(map(_record, rows))}
    write_report(out, "gate", record, text(rows))
    console.say_lines(text(rows))


if __name__ == "__main__":
    console.run(main, "")
