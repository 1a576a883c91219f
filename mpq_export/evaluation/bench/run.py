"""A whole run: rows made, drawn, timed, profiled and judged; what is finished is not done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...errors import UserError
from ...pipelines.registry import DrawRequest
from ...progress import ProgressReporter
from ..environment import describe_environment, over_time, settings_of
from ..estimates import Estimate
from ..original import config_sha256, load_original
from ..timing.making import CannotBeMade
from ..timing.other_work import OtherWork, busy_note
from ..timing.rounds import Cell
from .baselines import full_precision, static_int8
from .drawing import DRAWN, IMAGES, TRAJECTORY, Places, draw_apart
from .metrics import Metric
from .profile import GPU, Profile
from .profiles import Profiled, Profiler
from .quality import Judging
from .report import (
    Report,
    RowReport,
    Setting,
    StepError,
    Times,
    between_steps,
    comparisons,
    pareto_front,
    quality_axis,
)
from .request_checks import require_drawable, require_one_model, whose_weights_are_known
from .rows import Kind, Row, bundle_rows
from .sitting import WARM_UP_STEPS, Sitting
from .store import Store, pipeline_parts, program_parts, read_part, row_parts


@dataclass(frozen=True)
class BenchRequest:
    """What is asked for.

    Attributes:
        bundles: of one model.
        runtimes: that each of them runs in.
        baselines: of the checkpoint; full precision is always among them if there are any.
        checkpoint: what the bundles were made from, or None.
        drawing: how many images are judged, of how many steps, from which seed.
        batch: images per timed step and drawing.
        rounds: of both.
        processors: as many threads.
        command: what was typed.
    """

    bundles: tuple[Bundle, ...]
    runtimes: tuple[Any, ...]
    baselines: tuple[Kind, ...]
    checkpoint: str | None
    drawing: DrawRequest
    batch: int
    rounds: int
    processors: tuple[int, ...]
    command: str

    @property
    def threads(self) -> int:
        """Of every row."""
        return len(self.processors)


@dataclass(frozen=True)
class Finished:
    """A report, and the images of its rows by name, float32 ``[N, C, H, W]``."""

    report: Report
    images: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Timed:
    """A sitting that has been held.

    Attributes:
        cells: of the rows, in order.
        environment: the machine before and after it.
        others: share of the processors' time that other programs took meanwhile.
    """

    cells: tuple[Cell, ...]
    environment: Mapping[str, str]
    others: float


def require_answerable(request: BenchRequest) -> None:
    """Raise UserError, before anything is done, for what could not be answered."""
    require_one_model(request.bundles)
    if request.baselines and request.checkpoint is None:
        raise UserError(
            "Baselines need the checkpoint that the bundles were made from",
            where="--baselines",
            why="A bundle does not hold the full-precision model",
            fix=f"Give --ckpt; the first bundle was made from "
            f"'{request.bundles[0].quantization.source}'",
        )
    require_drawable(request.bundles[0], request.drawing)


def run_bench(request: BenchRequest, out: Path, progress: ProgressReporter) -> Finished:
    """Measure everything that is not in ``out/cache`` yet, of a request that
    :func:`require_answerable` has let through."""
    before = describe_environment(request.threads)
    store, program, settings = Store(out / "cache"), program_parts(), settings_of(before)
    rows, drawn = _rows(request, store, program, progress)
    timed = _times(request, store, {**program, **settings}, rows, before, progress)
    for row in rows:
        if row.name not in drawn:
            along = drawn.get(Kind.FP32)
            trajectory = along / TRAJECTORY if isinstance(along, Path) else None
            drawn[row.name] = _drawn(request, store, program, row, trajectory, progress)
    first = request.bundles[0].path
    profiler = Profiler(store, {**program, **settings}, first, request.batch, request.processors)
    profiled = profiler.profile(rows, progress)
    return _judged(request, rows, timed, drawn, profiled, progress)


def _rows(
    request: BenchRequest, store: Store, program: Mapping[str, str], progress: ProgressReporter
) -> tuple[list[Row], dict[str, Path | str]]:
    """All rows, and the images of full precision, whose trajectory int8 is fitted to."""
    rows = bundle_rows(request.bundles, request.runtimes)
    if request.checkpoint is None:
        return rows, {}
    from ...checkpoints.weights import record_weights

    progress.start("baselines", 1 + len(request.baselines))
    checkpoint = load_original(whose_weights_are_known(request.bundles), request.checkpoint)
    progress.advance()
    content = (config_sha256(checkpoint.model_config), record_weights(checkpoint.model).sha256)
    parts = {"checkpoint": content, **program}
    original = full_precision(store, request.checkpoint, parts, request.threads)
    progress.advance()
    images = _drawn(request, store, program, original, None, progress)
    if isinstance(images, str):
        raise UserError(
            "Full precision draws no images",
            where=request.checkpoint,
            why=images,
            fix="Mend that: the same command goes on from here. Without --ckpt the bundles are "
            "measured alone, in the same pipeline",
        )
    baselines = [original]
    if Kind.INT8 in request.baselines:
        baselines.append(static_int8(store, original, images / TRAJECTORY, request.threads))
    return [*baselines, *rows], {original.name: images}


def _drawn(
    request: BenchRequest,
    store: Store,
    program: Mapping[str, str],
    row: Row,
    trajectory: Path | None,
    progress: ProgressReporter,
) -> Path | str:
    """The folder of a row's images, or why there are none."""
    pipeline = _pipeline_of(row, request)
    parts = {
        **program,
        **row_parts(row),
        **pipeline_parts(pipeline),
        "request": asdict(request.drawing),
        "along": "" if trajectory is None else trajectory.parent.name,
        "threads": request.threads,
    }
    progress.start(row.name, request.drawing.num_images)

    def make(folder: Path, unfinished: Path) -> None:
        places = Places(folder, unfinished)
        draw_apart(
            row,
            pipeline.path,
            request.drawing,
            trajectory,
            places,
            request.processors,
            progress.advance,
        )

    try:
        return store.resumed(f"images-{row.name}", parts, make)
    except CannotBeMade as error:
        return str(error)


def _pipeline_of(row: Row, request: BenchRequest) -> Bundle:
    """The bundle in whose pipeline a row draws: its own, of a baseline the first."""
    own = (bundle for bundle in request.bundles if bundle.path == row.folder)
    return next(own, request.bundles[0])


def _times(
    request: BenchRequest,
    store: Store,
    parts: Mapping[str, str],
    rows: Sequence[Row],
    before: Mapping[str, str],
    progress: ProgressReporter,
) -> Timed:
    """Times of all rows in one sitting, which is kept whole: other rows would be another one. One
    in which a row failed is not kept."""
    timed = replace(request.drawing, num_images=request.batch)
    sitting = Sitting(request.bundles[0], timed, request.rounds, request.processors)
    depends = {
        **parts,
        "rows": [row_parts(row) for row in rows],
        "pipelines": [pipeline_parts(_pipeline_of(row, request)) for row in rows],
        "processors": list(request.processors),
        "request": asdict(timed),
        "rounds": request.rounds,
    }

    def hold() -> dict[str, Any]:
        others = OtherWork(request.processors)
        cells = [asdict(cell) for cell in sitting.hold(rows, progress)]
        after = describe_environment(request.threads)
        return {"cells": cells, "before": before, "after": after, "others": others.share()}

    kept = store.kept(
        "times", depends, hold, lambda made: all(cell["failure"] is None for cell in made["cells"])
    )
    cells = tuple(Cell(**cell) for cell in kept["cells"])
    return Timed(cells, over_time(kept["before"], kept["after"]), kept["others"])


def _judged(
    request: BenchRequest,
    rows: Sequence[Row],
    timed: Timed,
    drawn: Mapping[str, Path | str],
    profiled: Profiled,
    progress: ProgressReporter,
) -> Finished:
    """The report."""
    first = request.bundles[0]
    images = {
        name: np.load(folder / IMAGES, allow_pickle=False)
        for name, folder in drawn.items()
        if isinstance(folder, Path)
    }
    prompts = request.drawing.prompts
    judging = Judging(first.quantization.family, images.get(Kind.FP32), prompts)
    not_measured = dict(judging.not_measured)
    reports = []
    for row, cell in zip(rows, timed.cells, strict=True):
        profile = profiled.profiles.get(row.name)
        progress.start(f"judge {row.name}", judging.evaluations(request.drawing.num_images))
        quality = judging.measure(images[row.name], progress.advance) if row.name in images else {}
        reports.append(_row_report(row, cell, drawn[row.name], quality, profile, request))
        if cell.ms and isinstance(cell.gpu_memory, str):
            not_measured[f"memory of the GPU for {row.title}"] = cell.gpu_memory
        if row.name in profiled.missing:
            not_measured[f"layers of {row.title}"] = profiled.missing[row.name]
    if any(one.device == GPU for one in profiled.profiles.values()):
        not_measured["layers' shares of the GPU's peak"] = "its peak is not measured"
    if profiled.no_peaks:
        not_measured["layers' shares of the processor's peaks"] = profiled.no_peaks
    not_measured |= judging.not_measured
    axis = quality_axis(reports)
    setting = _setting(request)
    few = judging.notes.values()
    notes = [busy_note(timed.others), *few, *between_steps(reports, setting)]
    report = Report(
        command=request.command,
        notes=[note for note in notes if note],
        environment=dict(timed.environment),
        setting=setting,
        rows=reports,
        comparisons=comparisons(reports),
        not_measured=not_measured,
        quality_axis=None if axis is None else axis.value,
        pareto=pareto_front(reports, axis),
    )
    return Finished(report, images)


def _row_report(
    row: Row,
    cell: Cell,
    folder: Path | str,
    quality: Mapping[Metric, Estimate],
    profile: Profile | None,
    request: BenchRequest,
) -> RowReport:
    drawn = read_part(folder / DRAWN) if isinstance(folder, Path) else {}
    failures = [why for why in (cell.failure, folder if isinstance(folder, str) else None) if why]
    per_image = [ms / request.batch for ms in cell.image_ms]
    return RowReport(
        name=row.name,
        title=row.title,
        kind=row.kind.value,
        runtime=None if row.runtime is None else row.runtime.value,
        runs_as=cell.runs_as or drawn.get("runs_as", ""),
        method=row.method,
        weight_bits=row.weight_bits,
        activation_bits=row.act_bits,
        file_bytes=row.file_bytes,
        load_seconds=cell.load_seconds if cell.ms else None,
        peak_bytes=cell.peak_bytes if cell.ms else None,
        gpu_bytes=cell.gpu_memory if cell.ms and isinstance(cell.gpu_memory, int) else None,
        step=Times.of(cell.ms, cell.single_ms) if cell.ms else None,
        image=Times.of(per_image) if per_image else None,
        quality={metric.value: value for metric, value in quality.items()},
        errors=[
            StepError(timestep=timestep, relative=error)
            for timestep, error in zip(
                drawn.get("timesteps", ()), drawn.get("errors", ()), strict=True
            )
        ],
        profile=profile,
        failure="; ".join(dict.fromkeys(failures)) or None,
    )


def _setting(request: BenchRequest) -> Setting:
    first = request.bundles[0]
    return Setting(
        num_images=request.drawing.num_images,
        steps=request.drawing.num_steps,
        scheduler=str(first.scheduler_config.get("_class_name")),
        batch=request.batch,
        rounds=request.rounds,
        warm_up_steps=WARM_UP_STEPS,
        threads=request.threads,
        seed=request.drawing.seed,
        model=str(first.model_config.get("_class_name")),
        checkpoint=request.checkpoint,
    )
