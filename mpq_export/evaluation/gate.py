"""Is a bundle good enough? Images of the bundle and of full precision, and limits on what is lost.

Both draw from the same noise. Frechet distances depend on the number of images, so the bundle draws
as many as the reference holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..drawing import Drawer, open_drawer
from ..errors import RecipeError
from ..folder_drawing import drawn_with, judge_of, original_drawer
from ..image_folder import as_bytes
from ..pipelines.registry import DrawRequest
from ..progress import ProgressReporter
from ..runtimes.names import Runtime
from .feature_blocks import MOST_FEATURES
from .frechet import frechet_distance
from .gate_intervals import Interval, psnr_interval, rise_interval
from .image_summary import ImageSummary
from .original import config_sha256
from .reference import SHOWN, Drawn, DrawnBy, Reference, ReferenceFileError

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint
    from ..pipelines.judge import Judge

MOST_IMAGES = 100_000
"""A reference says how many images are drawn; this many at most."""
_BY_THE_CHECKPOINT = (
    "Make it with the bundle's own checkpoint: mpq-sample BUNDLE --ckpt CHECKPOINT --images FOLDER "
    "--save-reference FILE"
)


@dataclass(frozen=True)
class Limits:
    """What may be lost; None: that is not looked at.

    Attributes:
        frechet_increase: largest rise of the Frechet distance to the data over that of full
            precision, as a share: 0.15 is 15 %.
        psnr: least peak signal-to-noise ratio to full precision's images, in dB.
        accuracy_drop: largest fall of the share of images that show what was asked for.
    """

    frechet_increase: float | None = None
    psnr: float | None = None
    accuracy_drop: float | None = None

    @property
    def need_judge(self) -> bool:
        """Whether a family's judge measures what they are on; it needs torch."""
        return self.frechet_increase is not None or self.accuracy_drop is not None

    def __bool__(self) -> bool:
        return any(v is not None for v in (self.frechet_increase, self.psnr, self.accuracy_drop))


@dataclass(frozen=True)
class Verdict:
    """One limit, what was measured, and of what, in words.

    Attributes:
        images: that it was measured on, the first of those drawn.
        interval: 95 % by the bootstrap, of what was measured; None where there is none.
        undecided: whether the limit lies within it: other noise may decide otherwise.
    """

    name: str
    measured: float
    limit: float
    passed: bool
    detail: str
    images: int
    interval: Interval | None = None
    undecided: bool = False


@dataclass(frozen=True)
class GateDrawing:
    """How the images of both were drawn: as the reference says, not the bundle.

    Attributes:
        scheduler: diffusers' class.
        steps: of the sampler.
        seed: of the noise.
        images: how many.
    """

    scheduler: str
    steps: int
    seed: int
    images: int

    @classmethod
    def of(cls, drawn: Drawn) -> Self:
        """What a reference says."""
        scheduler = str(drawn.scheduler.get("_class_name"))
        return cls(scheduler, drawn.num_steps, drawn.seed, drawn.num_images)


@dataclass(frozen=True)
class GateReport:
    """Verdicts on images, and what is to be known of how far they hold; empty: nothing."""

    drawn: GateDrawing
    verdicts: tuple[Verdict, ...]
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every limit is kept."""
        return all(verdict.passed for verdict in self.verdicts)


def draw_reference(
    bundle: Bundle, checkpoint: Checkpoint, request: DrawRequest, progress: ProgressReporter
) -> Reference:
    """The reference of the bundle's own checkpoint, drawn here and now."""
    drawer = original_drawer(bundle, checkpoint, request)
    drawn = drawn_with(bundle, drawer, request, DrawnBy.CHECKPOINT)
    return _summarised(judge_of(bundle), drawer, drawn, "full", progress)


def pass_through_gate(
    bundle: Bundle,
    runtime: Runtime,
    reference: Reference,
    limits: Limits,
    progress: ProgressReporter,
) -> GateReport:
    """Draw what the reference's model drew, and compare.

    Raises ReferenceFileError where the reference is of another checkpoint or was drawn in another
    way than this program draws, RecipeError where it cannot answer what is asked.
    """
    require_answerable(bundle, reference, limits)
    drawn = reference.drawn
    request = DrawRequest(
        drawn.num_images, drawn.num_steps, drawn.seed, tuple(drawn.prompts), drawn.guidance
    )
    drawer = open_drawer(replace(bundle, scheduler_config=drawn.scheduler), runtime, request)
    if drawer.batch != drawn.batch:
        raise ReferenceFileError(
            "The reference was drawn in another way",
            where=drawn.model,
            why=f"It had {drawn.batch} images in a batch, here are {drawer.batch}",
            fix="Make it again on a machine of this kind",
        )
    judge = judge_of(bundle) if limits.need_judge else None
    found = _summarised(judge, drawer, drawn, "gate", progress)
    _require_comparable(found, reference)
    verdicts = tuple(_verdicts(found, reference, limits))
    return GateReport(GateDrawing.of(drawn), verdicts, _note(reference, limits))


def require_answerable(bundle: Bundle, reference: Reference | None, limits: Limits) -> None:
    """Refuse, before anything is drawn, what could not be answered afterwards.

    A reference of None is one that the bundle's checkpoint is about to draw. Raises RecipeError
    where a limit is on what nothing measures, ReferenceFileError where no checkpoint drew the
    reference, or one of another architecture or other weights did, where it is of other features,
    or of more images than a gate draws.
    """
    if reference is None:
        judged = limits.need_judge and judge_of(bundle) is not None
        _require_measures(limits, judged, judged, True)
        return
    has_features = reference.images is not None and reference.data is not None
    has_accuracy = reference.accuracy is not None
    _require_measures(limits, has_features, has_accuracy, len(reference.shown) > 0)
    drawn = reference.drawn
    if drawn.by is not DrawnBy.CHECKPOINT:
        raise ReferenceFileError(
            "The reference is not of full precision",
            where=drawn.model,
            why="A bundle drew its images, and the gate compares with the checkpoint's",
            fix=_BY_THE_CHECKPOINT,
        )
    if drawn.model_config_sha256 != config_sha256(bundle.model_config):
        raise ReferenceFileError(
            "The reference is of another architecture",
            where=drawn.model,
            why="The config of its model differs from the bundle's",
            fix=_BY_THE_CHECKPOINT,
        )
    kept = bundle.quantization.source_sha256
    if kept is not None and drawn.weights_sha256 != kept:
        raise ReferenceFileError(
            "The reference is of other weights than those that were quantised",
            where=drawn.model,
            why=f"The bundle was made from '{bundle.quantization.source}'"
            + ("" if drawn.weights_sha256 else "; the reference does not say what it was made of"),
            fix=_BY_THE_CHECKPOINT,
        )
    if drawn.num_images > MOST_IMAGES:
        raise ReferenceFileError(
            "The reference is of more images than a gate draws",
            where=drawn.model,
            why=f"They are {drawn.num_images}; the most is {MOST_IMAGES}",
            fix="Make it of fewer: --gate-images 1000",
        )
    if limits.need_judge and reference.images is not None:
        judge = judge_of(bundle)
        here = None if judge is None else judge.extractor
        if here != reference.extractor:
            raise ReferenceFileError(
                "The reference's features are not those of this program",
                where=str(reference.extractor),
                why=f"Here they are of {here or 'nothing'}",
                fix="Make the reference again",
            )


def _require_measures(limits: Limits, features: bool, accuracy: bool, images: bool) -> None:
    """Raise RecipeError where a limit is on what there is none of."""
    lacking = []
    if limits.frechet_increase is not None and not features:
        lacking.append(("--max-frechet-increase", "statistics of features and data"))
    if limits.accuracy_drop is not None and not accuracy:
        lacking.append(("--max-accuracy-drop", "a classifier's accuracy"))
    if limits.psnr is not None and not images:
        lacking.append(("--min-psnr", "images"))
    if lacking:
        option, what = lacking[0]
        raise RecipeError(
            f"The reference has no {what}",
            where=option,
            why="Nothing measures the images of this model family",
            fix="Leave the limit out; --min-psnr needs the images alone",
        )


def _require_comparable(found: Reference, reference: Reference) -> None:
    """A file's header may say one thing and its tensors another: they are compared as they are."""
    ours, theirs = found.shown.shape[1:], reference.shown.shape[1:]
    if len(reference.shown) and ours != theirs:
        raise _does_not_fit(reference, f"Its images are {theirs}, the bundle's {ours}")
    parts = (found.images, reference.images, reference.data)
    widths = {part.mean.shape for part in parts if part is not None}
    if len(widths) > 1:
        raise _does_not_fit(reference, "Its features have another width")


def _does_not_fit(reference: Reference, why: str) -> ReferenceFileError:
    return ReferenceFileError(
        "The reference does not fit what it says it is of",
        where=reference.drawn.model,
        why=why,
        fix="Make the reference again",
    )


def _note(reference: Reference, limits: Limits) -> str:
    """A covariance of fewer vectors than features is not of full rank, and its distance large."""
    part, count = reference.images, reference.drawn.num_images
    if limits.frechet_increase is None or part is None:
        return ""
    notes = []
    if count <= len(part.mean):
        notes.append(
            f"{count} images are no more than the {len(part.mean)} features: Frechet distances of "
            "so few tell little; draw 1000 or more"
        )
    if reference.blocks is None and len(part.mean) <= MOST_FEATURES:
        notes.append(
            "the reference was made by a former version and holds nothing to take an interval of "
            "the Frechet distance from; make it again"
        )
    return "; ".join(notes)


def psnr(images: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over two whole sets of one shape; infinite if equal."""
    error = np.square(images.astype(np.float64) - reference).mean() / 255**2
    return math.inf if error == 0 else -10 * math.log10(error)


def _summarised(
    judge: Judge | None, drawer: Drawer, drawn: Drawn, task: str, progress: ProgressReporter
) -> Reference:
    summary, images = ImageSummary(judge), range(drawn.num_images)
    progress.start(task, len(images))
    for batch in drawer.batches(images):
        part = range(batch.start, min(batch.stop, images.stop))
        summary.add(as_bytes(drawer.draw(part, progress.advance)), part)
    return summary.whole(drawn)


def _verdicts(found: Reference, reference: Reference, limits: Limits) -> Iterator[Verdict]:
    if limits.frechet_increase is not None:
        yield _frechet_verdict(found, reference, limits.frechet_increase)
    if limits.psnr is not None:
        count = min(SHOWN, len(reference.shown))
        pair = found.shown[:count], reference.shown[:count]
        ratio, interval = psnr(*pair), psnr_interval(*pair)
        detail = f"PSNR to full precision {ratio:.1f} dB"
        if interval is not None:
            detail += f" (95 %: {interval[0]:.1f} to {interval[1]:.1f})"
        detail = f"{detail}, at least {limits.psnr:g}"
        yield _with_interval(
            Verdict("psnr", ratio, limits.psnr, ratio >= limits.psnr, detail, count), interval
        )
    if limits.accuracy_drop is not None:
        yield _accuracy_verdict(found, reference, limits.accuracy_drop)


def _with_interval(verdict: Verdict, interval: Interval | None) -> Verdict:
    if interval is None:
        return verdict
    undecided = interval[0] <= verdict.limit <= interval[1]
    detail = verdict.detail
    if undecided:
        detail += f"; the limit lies within the interval: undecided at {verdict.images} images"
    return replace(verdict, detail=detail, interval=interval, undecided=undecided)


def _frechet_verdict(found: Reference, reference: Reference, limit: float) -> Verdict:
    images, full, data = found.images, reference.images, reference.data
    if images is None or full is None or data is None:
        raise ValueError("the reference answers no question of features")
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            ours, theirs = frechet_distance(images, data), frechet_distance(full, data)
    except np.linalg.LinAlgError as error:
        raise _does_not_fit(reference, f"Its statistics have no distance: {error}") from error
    if not math.isfinite(ours) or not math.isfinite(theirs):
        raise _does_not_fit(reference, f"Its statistics have no distance: {ours:g}, {theirs:g}")
    rise = ours / max(theirs, 1e-300) - 1
    interval = None
    if found.blocks is not None and reference.blocks is not None:
        if not np.array_equal(found.blocks.counts, reference.blocks.counts):
            raise _does_not_fit(reference, "Its blocks are of other images")
        interval = rise_interval(found.blocks, reference.blocks, data, rise)
    detail = f"Frechet distance to data {ours:.3f}, full precision {theirs:.3f}: {rise:+.1%}"
    if interval is not None:
        detail += f" (95 %: {interval[0]:+.1%} to {interval[1]:+.1%})"
    detail = f"{detail}, at most {limit:+.1%}"
    count = reference.drawn.num_images
    verdict = Verdict("frechet_increase", rise, limit, rise <= limit, detail, count)
    return _with_interval(verdict, interval)


def _accuracy_verdict(found: Reference, reference: Reference, limit: float) -> Verdict:
    ours, full, count = found.accuracy, reference.accuracy, reference.drawn.num_images
    if ours is None or full is None:
        raise ValueError("the reference answers no question of labels")
    drop = full - ours
    detail = f"Images as asked {ours:.1%}, full precision {full:.1%}: a fall of {drop:.1%}"
    detail = f"{detail}, at most {limit:.1%}"
    return Verdict("accuracy_drop", drop, limit, drop <= limit, detail, count)
