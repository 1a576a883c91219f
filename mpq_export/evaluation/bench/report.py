"""``report.json``: everything that a run found out. Its JSON schema is ``bench_report.schema.json``
in ``docs``, made of these classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..estimates import Estimate, median_of
from .metrics import SENSES, Metric
from .profile import LayerCost, Profile, ProfiledCost
from .rows import Kind

FORMAT_VERSION = 1

__all__ = ["Comparison", "LayerCost", "Profile", "ProfiledCost", "Report", "RowReport", "Times"]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Times(_Data):
    """Milliseconds after the warm-up.

    ``p50`` is the median of the rounds with its interval, by which rows are compared. A round is
    one drawing, or the mean of as many steps as fill a tenth of a second, which has no tails:
    ``p10``, ``p90`` and ``p99`` are of all single steps, as many as ``singles`` says, and so is
    ``single_p50``. Where these are none, what was timed is a round by itself.
    """

    rounds: int
    p10: float
    p50: Estimate
    p90: float
    p99: float
    single_p50: float | None = None
    singles: int | None = None

    @classmethod
    def of(cls, rounds: Sequence[float], singles: Sequence[float] | None = None) -> Times:
        """Of at least one round, and of the single steps that rounds are means of."""
        taken = rounds if singles is None else singles
        p10, p50, p90, p99 = (float(value) for value in np.percentile(taken, (10, 50, 90, 99)))
        return cls(
            rounds=len(rounds),
            p10=p10,
            p50=median_of(rounds),
            p90=p90,
            p99=p99,
            single_p50=None if singles is None else p50,
            singles=None if singles is None else len(singles),
        )


class StepError(_Data):
    """Relative error of the prediction at a timestep of full precision's trajectory."""

    timestep: float
    relative: float


class RowReport(_Data):
    """One row.

    ``step`` is milliseconds per denoising step of ``batch`` images, ``image`` per image of a whole
    drawing; ``peak_bytes`` the process's largest resident memory while it took steps;
    ``gpu_bytes`` what it had taken of the GPU's memory after its warm-up, CUDA's context apart.
    """

    name: str
    title: str
    kind: str
    runtime: str | None
    runs_as: str
    method: str
    weight_bits: float
    activation_bits: int
    file_bytes: int
    load_seconds: float | None = None
    peak_bytes: int | None = None
    gpu_bytes: int | None = None
    step: Times | None = None
    image: Times | None = None
    quality: dict[str, Estimate] = Field(default_factory=dict)
    errors: list[StepError] = Field(default_factory=list)
    profile: Profile | None = None
    failure: str | None = None


class Comparison(_Data):
    """A row against the first one in one figure: ``better``, ``worse`` or ``not told apart``."""

    row: str
    to: str
    figure: str
    verdict: str


class Setting(_Data):
    """How it was measured."""

    num_images: int
    steps: int
    scheduler: str
    batch: int
    rounds: int
    warm_up_steps: int
    threads: int
    seed: int
    model: str
    checkpoint: str | None


class Report(_Data):
    """All rows, and what they were measured with."""

    format_version: int = FORMAT_VERSION
    command: str
    notes: list[str]
    environment: dict[str, str]
    setting: Setting
    rows: list[RowReport]
    comparisons: list[Comparison]
    not_measured: dict[str, str]
    quality_axis: str | None
    pareto: list[str]


STEP, IMAGE = "ms per step", "ms per image"
_APART = 2


def comparisons(rows: Sequence[RowReport]) -> list[Comparison]:
    """Every row against the first that ran, in time and in quality."""
    ran = [row for row in rows if row.step is not None]
    return [
        Comparison(row=row.name, to=ran[0].name, figure=figure, verdict=verdict)
        for row in ran[1:]
        for figure, verdict in _verdicts(row, ran[0])
    ]


def _verdicts(row: RowReport, base: RowReport) -> list[tuple[str, str]]:
    assert row.step is not None
    assert base.step is not None
    found = [(STEP, verdict(row.step.p50, base.step.p50, more_is_better=False))]
    if row.image is not None and base.image is not None:
        found.append((IMAGE, verdict(row.image.p50, base.image.p50, more_is_better=False)))
    for metric, sense in SENSES.items():
        if metric is Metric.FRECHET_FULL and base.kind == Kind.FP32:
            continue  # its distance to itself: every row would be worse
        if metric in row.quality and metric in base.quality:
            pair = row.quality[metric], base.quality[metric]
            found.append((metric.value, verdict(*pair, more_is_better=sense.more_is_better)))
    return found


def verdict(one: Estimate, other: Estimate, more_is_better: bool) -> str:
    """Of the first figure against the second; overlapping intervals decide nothing, nor does what
    is not a number."""
    if not (one.is_finite and other.is_finite) or one.overlaps(other):
        return "not told apart"
    return "better" if (one.value > other.value) == more_is_better else "worse"


def between_steps(rows: Sequence[RowReport], setting: Setting) -> list[str]:
    """A remark on every row whose images take far more, or less, than their steps."""
    remarks = []
    for row in rows:
        if row.step is None or row.image is None:
            continue
        steps, image = setting.steps * row.step.p50.value / setting.batch, row.image.p50.value
        if max(steps, image) > _APART * min(steps, image):
            remarks.append(
                f"{row.title}: {setting.steps} steps take {steps:.1f} ms per image, an image "
                f"{image:.1f} ms. What runs between the steps, guidance, or other work of the "
                "machine makes the difference; judge by the image."
            )
    return remarks


def quality_axis(rows: Sequence[RowReport]) -> Metric | None:
    """What quality means in the picture: the first metric that all rows with images have."""
    judged = [row for row in rows if row.quality]
    # From the same noise, distances to full precision tell most apart.
    order = (Metric.FRECHET_FULL, Metric.FRECHET_DATA, Metric.PSNR)
    shared = (metric for metric in order if all(metric in row.quality for row in judged))
    return next(shared, None) if judged else None


def pareto_front(rows: Sequence[RowReport], metric: Metric | None) -> list[str]:
    """Rows that no other one beats: better in time or quality and not worse in the other, both
    beyond their intervals."""
    if metric is None:
        return []
    placed = [row for row in rows if row.step is not None and metric in row.quality]
    return [row.name for row in placed if not any(_beats(o, row, metric) for o in placed)]


def _beats(one: RowReport, other: RowReport, metric: Metric) -> bool:
    assert one.step is not None
    assert other.step is not None
    verdicts = {
        verdict(one.step.p50, other.step.p50, more_is_better=False),
        verdict(one.quality[metric], other.quality[metric], SENSES[metric].more_is_better),
    }
    return "better" in verdicts and "worse" not in verdicts


def report_schema() -> Mapping[str, Any]:
    """The JSON schema of ``report.json``."""
    schema = Report.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
