"""``python -m mpq_export.evaluation.bench.drawing JSON``: the images of one row, apart.

Writes ``images.npy``, float32 ``[N, C, H, W]`` in [0, 1]; ``drawn.json`` with what ran; where
``record`` is asked for ``trajectory.npz``; and where ``along`` names a trajectory the errors of the
predictions at each of its steps. Every line on stdout is a number of images more that are done;
what libraries print goes to stderr. Whole batches are files until all are there, so what is killed
goes on with the next batch, and no more than one is in memory.
"""

from __future__ import annotations

import json
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import read_bundle
from ...cli import console
from ...drawing import drawer_around
from ...files import staged_file, write_json
from ...pipelines.registry import DrawRequest
from ..timing.failures import one_line
from ..timing.making import make_apart
from ..timing.stdout import own_stdout
from .opening import open_row
from .rows import Row
from .trajectory import Recorder, Trajectory, errors_along

IMAGES, DRAWN, TRAJECTORY = "images.npy", "drawn.json", "trajectory.npz"


@dataclass(frozen=True)
class Places:
    """Where a row's images go.

    Attributes:
        out: an empty folder.
        unfinished: what an earlier process has drawn of the same, and this one draws.
    """

    out: Path
    unfinished: Path


@dataclass(frozen=True)
class Drawing:
    """What one process is to do.

    Attributes:
        folder: the row's.
        runtime: of a bundle.
        pipeline: the folder of the bundle in whose pipeline images are drawn.
        request: what is drawn.
        record: keep the trajectory of the first batch.
        along: a trajectory of full precision to follow, or None.
        out: an empty folder.
        unfinished: a folder of batches that are drawn.
    """

    folder: str
    runtime: str | None
    pipeline: str
    request: DrawRequest
    record: bool
    along: str | None
    out: str
    unfinished: str


def draw_apart(
    row: Row,
    pipeline: Path,
    request: DrawRequest,
    along: Path | None,
    places: Places,
    processors: Sequence[int],
    on_images: Callable[[int], None],
) -> None:
    """Draw a row's images in a process of its own; raises CannotBeMade.

    Where no trajectory is followed, full precision's is recorded.
    """
    drawing = Drawing(
        str(row.folder),
        None if row.runtime is None else row.runtime.value,
        str(pipeline),
        request,
        row.runtime is None and along is None,
        None if along is None else str(along),
        str(places.out),
        str(places.unfinished),
    )
    make_apart(
        __name__,
        json.dumps(asdict(drawing)),
        processors=processors,
        on_line=lambda line: on_images(int(line)),
    )


def draw_row(drawing: Drawing, on_images: Callable[[int], None]) -> None:
    """What the process does."""
    out, unfinished = Path(drawing.out), Path(drawing.unfinished)
    request = drawing.request
    denoiser = open_row(Path(drawing.folder), drawing.runtime)
    recorder = Recorder(denoiser, drawing.record)
    drawer = drawer_around(read_bundle(drawing.pipeline), recorder, request)
    batches = list(drawer.batches(range(request.num_images)))
    for part in batches:
        if not _batch_file(unfinished, part).is_file():
            images = drawer.draw_batch(part)
            if not np.isfinite(images).all():
                raise ValueError("its images hold values that are not finite")
            if recorder.recording:  # before the batch: where that is there, this is, too
                recorder.trajectory().save(unfinished / TRAJECTORY)
            with staged_file(_batch_file(unfinished, part)) as stage, stage.open("wb") as stream:
                np.save(stream, images, allow_pickle=False)
        recorder.recording = False
        on_images(min(len(part), request.num_images - part.start))
    _join(unfinished, batches, request.num_images, out / IMAGES)
    if drawing.record:
        shutil.copy(unfinished / TRAJECTORY, out / TRAJECTORY)
    drawn: dict[str, Any] = {"runs_as": str(denoiser.selection), "timesteps": [], "errors": []}
    if drawing.along is not None:
        trajectory = Trajectory.read(Path(drawing.along))
        drawn["timesteps"] = trajectory.timesteps.tolist()
        drawn["errors"] = errors_along(trajectory, denoiser)
        if not np.isfinite(drawn["errors"]).all():
            raise ValueError("its predictions along full precision's trajectory are not finite")
    write_json(out / DRAWN, drawn)


def _batch_file(folder: Path, part: range) -> Path:
    return folder / f"batch-{part.start}.npy"


def _join(folder: Path, batches: Sequence[range], count: int, target: Path) -> None:
    """Batches as one array of so many images, a batch at a time."""
    joined: np.ndarray | None = None
    for part in batches:
        images = np.load(_batch_file(folder, part), allow_pickle=False)
        if joined is None:
            shape = (count, *images.shape[1:])
            joined = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=shape)
        room = count - part.start
        joined[part.start : part.stop] = images[:room]
    if isinstance(joined, np.memmap):
        joined.flush()


def main(words: str) -> None:
    """Draw; the last line on stderr says what went wrong."""
    console.quiet_libraries()
    pipe = own_stdout()

    def say(count: int) -> None:
        print(count, file=pipe, flush=True)

    data = json.loads(words)
    request = data["request"]
    request["prompts"] = tuple(request["prompts"])
    try:
        draw_row(Drawing(**{**data, "request": DrawRequest(**request)}), say)
    except Exception as error:  # whatever a library raises is this row's result
        traceback.print_exc()
        sys.exit(one_line(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
