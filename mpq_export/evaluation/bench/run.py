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
from ..environment import busy_note, describe_environment
from ..timing.making import CannotBeMade
from ..timing.rounds import Cell
from .baselines import full_precision, load_original, static_int8
from .drawing import DRAWN, IMAGES, TRAJECTORY, draw_apart
from .profile import Profile
from .profiling import PROFILE, can_be_profiled, profile_apart
from .quality import Judging
from .report import (
    Report,
    RowReport,
    Setting,
    StepError,
    Times,
    comparisons,
    pareto_front,
    quality_axis,
)
from .rows import Kind, Row, bundle_rows, require_one_model
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


def run_bench(request: BenchRequest, out: Path, progress: ProgressReporter) -> Finished:
    """Measure everything that is not in ``out/cache`` yet."""
    require_one_model(request.bundles)
    if request.baselines and request.checkpoint is None:
        raise UserError(
            "Baselines need the checkpoint that the bundles were made from",
            where="--baselines",
            why="A bundle does not hold the full-precision model",
            fix=f"Give --ckpt; the first bundle was made from "
            f"'{request.bundles[0].quantization.source}'",
        )
    environment = describe_environment(request.threads)
    store, program = Store(out / "cache"), program_parts()
    rows, drawn = _rows(request, store, program, progress)
    cells = _times(request, store, program, rows, environment, progress)
    for row in rows:
        if row.name not in drawn:
            along = drawn.get(Kind.FP32)
            trajectory = along / TRAJECTORY if isinstance(along, Path) else None
            drawn[row.name] = _drawn(request, store, program, row, trajectory, progress)
    profiles = _profiles(request, store, program, rows, environment, progress)
    return _judged(request, rows, cells, drawn, profiles, environment, progress)


def _rows(
    request: BenchRequest, store: Store, program: Mapping[str, str], progress: ProgressReporter
) -> tuple[list[Row], dict[str, Path | str]]:
    """All rows, and the images of full precision, whose trajectory int8 is fitted to."""
    rows = bundle_rows(request.bundles, request.runtimes)
    if request.checkpoint is None:
        return rows, {}
    progress.start("baselines", 1 + len(request.baselines))
    first = request.bundles[0]
    _, digest = load_original(request.checkpoint, first)
    progress.advance()
    parts = {"checkpoint": digest, **program}
    original = full_precision(store, request.checkpoint, parts, request.threads)
    progress.advance()
    images = _drawn(request, store, program, original, None, progress)
    if isinstance(images, str):
        raise UserError("Full precision draws no images", where=request.checkpoint, why=images)
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
    pipeline = request.bundles[0]
    parts = {
        **program,
        **row_parts(row),
        **pipeline_parts(pipeline),
        "request": asdict(request.drawing),
        "along": "" if trajectory is None else trajectory.parent.name,
        "threads": request.threads,
    }
    progress.start(row.name, request.drawing.num_images)
    own = pipeline.path if row.runtime is None else row.folder

    def make(folder: Path) -> None:
        draw_apart(row, own, request.drawing, trajectory, folder, request.threads, progress.advance)

    try:
        return store.made(f"images-{row.name}", parts, make)
    except CannotBeMade as error:
        return str(error)


def _times(
    request: BenchRequest,
    store: Store,
    program: Mapping[str, str],
    rows: Sequence[Row],
    environment: Mapping[str, str],
    progress: ProgressReporter,
) -> list[Cell]:
    """Times of all rows in one sitting, which is kept whole: other rows would be another one."""
    timed = replace(request.drawing, num_images=request.batch)
    sitting = Sitting(request.bundles[0], timed, request.rounds, request.processors)
    parts = {
        **program,
        "rows": [row_parts(row) for row in rows],
        "processor": environment["processor"],
        "processors": list(request.processors),
        "request": asdict(timed),
        "rounds": request.rounds,
    }
    kept = store.kept(
        "times", parts, lambda: {"cells": [asdict(cell) for cell in sitting.hold(rows, progress)]}
    )
    return [Cell(**cell) for cell in kept["cells"]]


def _profiles(
    request: BenchRequest,
    store: Store,
    program: Mapping[str, str],
    rows: Sequence[Row],
    environment: Mapping[str, str],
    progress: ProgressReporter,
) -> dict[str, Profile | str]:
    """The profile of every row, or why there is none."""
    progress.start("profile", len(rows))
    found: dict[str, Profile | str] = {}
    for row in rows:
        parts = {
            **program,
            **row_parts(row),
            "processor": environment["processor"],
            "batch": request.batch,
            "threads": request.threads,
        }

        def make(folder: Path, row: Row = row) -> None:
            bundle = request.bundles[0].path if row.runtime is None else row.folder
            profile_apart(row, bundle, request.batch, request.threads, folder)

        if not can_be_profiled(row):
            found[row.name] = f"layers are not timed in {row.runtime}"
        else:
            try:
                folder = store.made(f"profile-{row.name}", parts, make)
                found[row.name] = Profile.model_validate(read_part(folder / PROFILE))
            except CannotBeMade as error:
                found[row.name] = str(error)
        progress.advance()
    return found


def _judged(
    request: BenchRequest,
    rows: Sequence[Row],
    cells: Sequence[Cell],
    drawn: Mapping[str, Path | str],
    profiles: Mapping[str, Profile | str],
    environment: Mapping[str, str],
    progress: ProgressReporter,
) -> Finished:
    """The report."""
    first = request.bundles[0]
    images = {
        name: np.load(folder / IMAGES, allow_pickle=False)
        for name, folder in drawn.items()
        if isinstance(folder, Path)
    }
    judging = Judging(first.quantization.family, images.get(Kind.FP32))
    not_measured = dict(judging.not_measured)
    reports = []
    progress.start("judge", len(rows))
    for row, cell in zip(rows, cells, strict=True):
        reports.append(_row_report(row, cell, drawn[row.name], images, judging, profiles, request))
        if isinstance(profiles[row.name], str):
            not_measured[f"layers of {row.title}"] = str(profiles[row.name])
        progress.advance()
    not_measured |= judging.not_measured
    axis = quality_axis(reports)
    load = float(environment["load average"])
    note = busy_note(load, int(environment["cores"]))
    report = Report(
        command=request.command,
        notes=[note] if note else [],
        environment=dict(environment),
        setting=_setting(request),
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
    images: Mapping[str, np.ndarray],
    judging: Judging,
    profiles: Mapping[str, Profile | str],
    request: BenchRequest,
) -> RowReport:
    drawn = read_part(folder / DRAWN) if isinstance(folder, Path) else {}
    profile = profiles[row.name]
    failures = [why for why in (cell.failure, folder if isinstance(folder, str) else None) if why]
    quality = judging.measure(images[row.name]) if row.name in images else {}
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
        step=Times.of(cell.ms) if cell.ms else None,
        image=Times.of(per_image) if per_image else None,
        quality={metric.value: value for metric, value in quality.items()},
        errors=[
            StepError(timestep=timestep, relative=error)
            for timestep, error in zip(
                drawn.get("timesteps", ()), drawn.get("errors", ()), strict=True
            )
        ],
        profile=profile if isinstance(profile, Profile) else None,
        failure="; ".join(failures) or None,
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
