"""``make tensorrt-plans``: how large the plans are that TensorRT-RTX builds, without a GPU.

python -m mpq_export.evaluation.tensorrt_plans --out docs/results

A plan of TensorRT-RTX holds the model's constants and the source text of kernels that are compiled
on the GPU. How much text depends on the model's structure, not on its width: it is measured on a
twin of half the width, as what its plan has beyond its constants, and is the fixed overhead of
the model itself.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..bundle import WEIGHTS, Bundle
from ..checkpoints import load_checkpoint
from ..cli import console
from ..export import export_checkpoint
from ..export_request import ExportRequest
from ..lowering.names import ENGINE_TARGETS, Target
from ..methods import recipe_of
from ..precision import BitSpec
from ..progress import ProgressReporter
from ..runtimes.names import Runtime
from ..runtimes.tensorrt.engine_builds import Engine, EngineRequest, build
from .cpu_benchmark.models import MODELS, BenchmarkModel
from .machine import describe_machine
from .report_files import write_report

BITS, STEPS = "w3a4", 2
_SHIPPED = ("digits", "digits_dit", "photos")
SUBJECTS = (
    *(BenchmarkModel(name, (1,), package=f"mpq_export.pipelines.{name}") for name in _SHIPPED),
    MODELS["unet26m"],
)


@dataclass(frozen=True)
class PlanRow:
    """One model, sizes in bytes.

    Attributes:
        model: its name.
        packed: the bundle's weights.
        constants: weights and tables of the lowered model, in the kernels' order.
        plan: the engine.
        compressed: the engine by zlib, as a file would travel.
        overhead: the twin's plan beyond its constants.
        twin_constants: of the twin.
        seconds: of building.
        peak_mb: memory of the builder.
        int8_plan: the engine of the plain INT8 form.
    """

    model: str
    packed: int
    constants: int
    plan: int
    compressed: int
    overhead: int
    twin_constants: int
    seconds: float
    peak_mb: int
    int8_plan: int

    @property
    def deviation(self) -> float:
        """Of the plan from constants plus overhead, as a share of that."""
        return self.plan / (self.constants + self.overhead) - 1


def narrower(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model of the same structure and about half the width."""
    twin = {key: value for key, value in config.items() if not key.startswith("_")}
    twin["_class_name"] = config["_class_name"]
    if "block_out_channels" in config:
        groups = config.get("norm_num_groups", 32)
        twin["block_out_channels"] = [
            max(1, -(-channels // (2 * groups))) * groups
            for channels in config["block_out_channels"]
        ]
    else:
        twin["num_attention_heads"] = max(1, config["num_attention_heads"] // 2)
    return twin


def measure(subject: BenchmarkModel, folder: Path, progress: ProgressReporter) -> PlanRow:
    """Export a model and its twin, and build both; ``folder`` is for their files."""
    bundle = _bundle(subject, folder / "model", progress)
    engine = _engine(bundle, Target.TRT, progress)
    int8 = _engine(bundle, Target.TRT_INT8, progress)
    twin = BenchmarkModel("twin", (1,), narrower(bundle.model_config))
    twin_engine = _engine(_bundle(twin, folder / "twin", progress), Target.TRT, progress)
    record, of_twin = engine.record, twin_engine.record
    return PlanRow(
        model=subject.name,
        packed=(bundle.path / WEIGHTS).stat().st_size,
        constants=record.constants,
        plan=record.size,
        compressed=len(zlib.compress(engine.path.read_bytes())),
        overhead=of_twin.size - of_twin.constants,
        twin_constants=of_twin.constants,
        seconds=record.seconds,
        peak_mb=record.peak_mb,
        int8_plan=int8.record.size,
    )


def _bundle(model: BenchmarkModel, folder: Path, progress: ProgressReporter) -> Bundle:
    checkpoint = folder / "checkpoint"
    model.save(checkpoint)
    recipe = recipe_of("rtn").trained_for(0)
    out = folder / "bundle"
    request = ExportRequest(BitSpec.parse(BITS), recipe, ENGINE_TARGETS, STEPS, 0, out)
    bundle = export_checkpoint(load_checkpoint(str(checkpoint)), request, progress)
    assert bundle is not None, "one process writes"
    return bundle


def _engine(bundle: Bundle, target: Target, progress: ProgressReporter) -> Engine:
    return build(bundle, EngineRequest(target, Runtime.TRT_RTX), progress, console.remark)


def table(rows: list[PlanRow], machine: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Plans of TensorRT-RTX",
        "",
        "`make tensorrt-plans`: plans that `mpq-build` makes without a GPU, for compute capability "
        f"8.0 to 12.1, {BITS}, 1 to 4 images.",
        "",
        "*Constants* are weights and tables in the kernels' order (small layers are padded); "
        "*overhead* is what the plan of a twin of half the width has beyond its own constants: "
        "source text of TensorRT-RTX's kernels, the same for every width. *Off* is how far the "
        "plan is from their sum. *Compressed* is the whole plan by zlib.",
        "",
        "| model | packed MB | constants MB | overhead MB | plan MB | off | compressed MB | plain "
        "INT8 plan MB | build s | builder MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sizes = (row.packed, row.constants, row.overhead, row.plan)
        megabytes = " | ".join(f"{size / 1e6:.2f}" for size in sizes)
        lines.append(
            f"| {row.model} | {megabytes} | {row.deviation:+.1%} | {row.compressed / 1e6:.2f} | "
            f"{row.int8_plan / 1e6:.2f} | {row.seconds:.1f} | {row.peak_mb} |"
        )
    lines += ["", f"{machine['processor']}, {machine['tensorrt-rtx']}.", ""]
    return "\n".join(lines)


def plans(
    out: Annotated[Path, typer.Option(help="Folder of tensorrt_plans.json and .md.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be given several times.")
    ] = None,
) -> None:
    """Build and measure; what an earlier call has measured of other models stays."""
    file = out / "tensorrt_plans.json"
    kept = json.loads(file.read_text())["rows"] if file.is_file() else []
    rows = {row["model"]: PlanRow(**row) for row in kept}
    from ..runtimes.tensorrt.installed import installed

    machine = {**describe_machine(), "tensorrt-rtx": str(installed(Runtime.TRT_RTX))}
    for subject in SUBJECTS:
        if model and subject.name not in model:
            continue
        with tempfile.TemporaryDirectory() as folder, console.TaskProgress() as progress:
            rows[subject.name] = measure(subject, Path(folder), progress)
        ordered = [rows[known.name] for known in SUBJECTS if known.name in rows]
        figures = {"machine": machine, "rows": [asdict(row) for row in ordered]}
        write_report(out, "tensorrt_plans", figures, table(ordered, machine))
        console.say(f"{subject.name}: {rows[subject.name].deviation:+.1%}")


def main() -> None:
    """Entry point."""
    console.run(plans, "")


if __name__ == "__main__":
    main()
