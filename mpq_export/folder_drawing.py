"""Images of a bundle into a folder: any number of them, by any number of processes, to the end.

No process speaks to another. Each draws the batches of its share that are not there yet, and leaves
the statistics of its images in the folder; whoever finds those of all shares joins them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .architectures import architecture_of
from .bundle import CORE_FILES, Bundle
from .drawing import Drawer, drawer_around, open_drawer
from .errors import BundleError, Interrupted, UserError
from .evaluation.image_summary import ImageSummary, completed
from .evaluation.original import config_sha256, load_original
from .evaluation.reference import (
    FULL_PRECISION,
    SHOWN,
    Drawn,
    DrawnBy,
    Reference,
    read_part,
    write_reference,
)
from .files import read_manifest, require_writable
from .image_folder import ImageFolder, as_bytes
from .pipelines.registry import DrawRequest, family_registration, load_judge
from .processes import Share
from .progress import ProgressReporter
from .runtimes.names import Runtime
from .runtimes.selection import Selection
from .training.interruption import stop_wish

if TYPE_CHECKING:
    from .checkpoints import Checkpoint
    from .pipelines.judge import Judge

STATISTICS = "statistics"


@dataclass(frozen=True)
class FolderDrawing:
    """One process's part in filling a folder.

    Attributes:
        folder: opened by every process.
        drawer: of the request.
        drawn: what the images are drawn with.
        share: which batches are this process's.
    """

    folder: ImageFolder
    drawer: Drawer
    drawn: Drawn
    share: Share

    def draw(self, progress: ProgressReporter) -> int:
        """Draw what is missing of this share; returns how many images that were.

        Raises Interrupted after the batch during which Ctrl-C or SIGTERM was heard.
        """
        missing = [part for part in self._parts() if not self.folder.has(part)]
        progress.start("sample", sum(map(len, missing)))
        done = 0
        with self.folder.writer() as writer, stop_wish() as stop_wished:
            for part in missing:
                writer.write(part.start, as_bytes(self.drawer.draw(part, progress.advance)))
                done += len(part)
                if stop_wished() and part is not missing[-1]:
                    raise Interrupted(
                        f"Stopped after {done} images",
                        where=self.folder.path,
                        fix="The same command goes on",
                    )
        return done

    def summarise(self, judge: Judge | None, progress: ProgressReporter) -> Reference | None:
        """Statistics of this share's images, and of all where those of all shares are there.

        Returns None where other processes are not done yet: the last of them will return it.
        """
        summary, parts = ImageSummary(judge), list(self._parts())
        progress.start("features", sum(map(len, parts)))
        for part in parts:
            summary.add(self.folder.read(part), part)
            progress.advance(len(part))
        write_reference(self._statistics_file(self.share.number), summary.part(self.drawn))
        found = list(self._statistics_of_all(None if judge is None else judge.extractor))
        if len(found) < self.share.count or not self._is_whole():
            return None
        shown = self.folder.read(range(min(SHOWN, self.drawn.num_images)))
        return completed(found, shown, judge)

    def _parts(self) -> Iterator[range]:
        """The images of this share, batch by batch; of the last batch those that are wanted."""
        wanted, batch = self.drawn.num_images, self.drawer.batch
        for k in self.share.of(-(-wanted // batch)):
            yield range(k * batch, min((k + 1) * batch, wanted))

    def _statistics_file(self, number: int) -> Path:
        name = f"{Share(number, self.share.count)}-{self.drawn.num_images}.safetensors"
        return self.folder.path / STATISTICS / name

    def _statistics_of_all(self, extractor: str | None) -> Iterator[Reference]:
        for number in range(self.share.count):
            try:
                part = read_part(self._statistics_file(number))
            except UserError:
                continue  # not there yet
            if part.drawn == self.drawn and part.extractor in (None, extractor):
                yield part

    def _is_whole(self) -> bool:
        return self.folder.has(range(self.drawn.num_images))


@dataclass(frozen=True)
class FolderRun:
    """What one process did for a folder.

    Attributes:
        drawn: images that it drew; others were there.
        selection: what ran.
        sampler: who took the steps.
        reference: what it wrote, or None if none was asked for or others are not done yet.
        unjudged: why nothing extracts features for it, in words; empty where something does.
    """

    drawn: int
    selection: Selection
    sampler: str
    reference: Reference | None
    unjudged: str = ""


def fill_folder(
    bundle: Bundle,
    runtime: Runtime,
    ckpt: str | None,
    request: DrawRequest,
    path: Path,
    share: Share,
    reference: Path | None,
    progress: ProgressReporter,
) -> FolderRun:
    """Draw this process's share of the images into a folder that others may be filling, too.

    Args:
        bundle: its ``scheduler_config`` is what steps.
        runtime: where its denoiser runs.
        ckpt: the bundle's checkpoint, which draws in its place; None: the bundle draws.
        request: the images, numbered from 0.
        path: the folder.
        share: this process's part of the batches.
        reference: file for statistics of all images, written by the last process to end.
        progress: told of images that are drawn, and of those whose features are extracted.
    """
    if reference is not None and request.num_images < 2:
        raise UserError("One image has no statistics", where="--num-images", fix="Draw two or more")
    judge, unjudged = None, ""
    if reference is not None:
        require_writable(reference)
        judge, unjudged = _judge_here(bundle)
    drawer, by = _drawer(bundle, runtime, ckpt, request)
    drawn = drawn_with(bundle, drawer, request, by)
    folder = ImageFolder(path, _folder_request(bundle, drawn, drawer))
    folder.open()
    work = FolderDrawing(folder, drawer, drawn, share)
    done = work.draw(progress)
    whole = None
    if reference is not None:
        whole = work.summarise(judge, progress)
        if whole is not None:
            write_reference(reference, whole)
    return FolderRun(done, drawer.selection, drawer.loop.value, whole, unjudged)


def _drawer(
    bundle: Bundle, runtime: Runtime, ckpt: str | None, request: DrawRequest
) -> tuple[Drawer, DrawnBy]:
    """A drawer, and who draws."""
    if ckpt is None:
        return open_drawer(bundle, runtime, request), DrawnBy.BUNDLE
    checkpoint = load_original(bundle, ckpt)
    return original_drawer(bundle, checkpoint, request), DrawnBy.CHECKPOINT


def original_drawer(bundle: Bundle, checkpoint: Checkpoint, request: DrawRequest) -> Drawer:
    """The bundle's drawer with the full-precision model in the quantised one's place."""
    from .runtimes.full_precision import FullPrecisionDenoiser

    original = FullPrecisionDenoiser(checkpoint.model, checkpoint.model_config)
    return drawer_around(bundle, original, request)


def drawn_with(bundle: Bundle, drawer: Drawer, request: DrawRequest, by: DrawnBy) -> Drawn:
    """The record of what images are drawn with: by the bundle, or by its checkpoint."""
    full = by is DrawnBy.CHECKPOINT
    return Drawn(
        by=by,
        model=FULL_PRECISION if full else f"{bundle.quantization.bits} bundle",
        model_config_sha256=config_sha256(bundle.model_config),
        weights_sha256=bundle.quantization.source_sha256 if full else None,
        num_images=request.num_images,
        num_steps=request.num_steps,
        seed=request.seed,
        batch=drawer.batch,
        scheduler=dict(bundle.scheduler_config),
        prompts=list(request.prompts),
        guidance=request.guidance,
    )


def judge_of(bundle: Bundle) -> Judge | None:
    """The judge of the bundle's family, or None where it has none for images of this size."""
    family = family_registration(bundle.quantization.family)
    if family.judge is None:
        return None
    judge = load_judge(family.name)
    size = architecture_of(bundle.model_config).sample_shape(bundle.model_config)
    return judge if tuple(judge.data.shape[1:]) == tuple(size) else None


def _judge_here(bundle: Bundle) -> tuple[Judge | None, str]:
    """The judge of a bundle's images, or None and why there is none: a board may lack torch."""
    try:
        judge = judge_of(bundle)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == __package__:
            raise
        return None, f"its features need the Python package '{package}', which is not installed"
    return judge, "" if judge else "nothing extracts features of such images here"


def _folder_request(bundle: Bundle, drawn: Drawn, drawer: Drawer) -> dict[str, Any]:
    """What decides every bit of a folder's images, however many: the bundle's files, what runs
    them, and what they are drawn with."""
    manifest = read_manifest(bundle.path, CORE_FILES, BundleError, "Export the bundle again")
    hashes = {name: entry["sha256"] for name, entry in sorted(manifest.items())}
    asked = drawn.model_dump(exclude={"num_images", "by"})  # the model's name says by whom
    return {"bundle": hashes, "runtime": drawer.selection.runs.value, **asked}
