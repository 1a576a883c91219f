"""What a set of images leaves behind for later ones to be compared with: one file, made once.

A safetensors file: statistics of the images' features and of the data's, the first images
themselves, and in its header what the images were drawn with. Reading it runs no code and takes no
more memory than it is long.
"""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import UserError
from ..files import parse_json
from ..samplers.options import wrong_type
from ..tensor_files import staged_tensor_file
from .feature_blocks import BLOCKS, MOST_FEATURES, FeatureBlocks
from .frechet import FeatureStatistics

SHOWN = 64
"""Images that are kept themselves: PSNR needs pairs."""
_VERSION = 3
_READ = (1, 2, 3)
"""Version 1 has no blocks; before 3, the name of the model alone says who drew."""
_KEY = "mpq_reference"
_MOST_BYTES = 1 << 30
_MOST_HEADER = 1 << 20
_IMAGES, _DATA, _SHOWN, _BLOCKS = "images", "data", "shown", "blocks"
_FIX = "Make it again: mpq-sample BUNDLE --ckpt CHECKPOINT --images FOLDER --save-reference FILE"


class ReferenceFileError(UserError):
    """A reference file that cannot be read, or is of something else."""


class DrawnBy(StrEnum):
    """Whose images they are: only a checkpoint's are full precision."""

    CHECKPOINT = "checkpoint"
    BUNDLE = "bundle"


FULL_PRECISION = "full precision"
"""What images of a checkpoint say of their model."""


class Drawn(BaseModel):
    """What the images were drawn with; they are paired with others that have the same.

    Attributes:
        by: who drew them.
        model: the same, for people.
        model_config_sha256: of the denoiser's config, which the other model must have too.
        weights_sha256: of the checkpoint that drew them, or None where a bundle did, or one that
            keeps no digest of what it was made of.
        num_images: all of them, of which the statistics are; numbers from 0.
        num_steps: sampler steps.
        seed: of the noise, by :func:`~mpq_export.drawing.image_seed`.
        batch: images that were drawn at once.
        scheduler: diffusers' scheduler config.
        prompts: texts in turn; empty for models without text.
        guidance: classifier-free guidance scale; None is the pipeline's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    by: DrawnBy
    model: str
    model_config_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weights_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    num_images: int = Field(ge=1, le=10**9)
    num_steps: int = Field(ge=1, le=10**6)
    seed: int = Field(ge=0, le=2**63 - 1)
    batch: int = Field(ge=1, le=10**6)
    scheduler: dict[str, Any]
    prompts: list[str] = []
    guidance: float | None = None


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: int
    extractor: str | None = None
    counts: dict[str, int]
    accuracy: float | None = Field(None, ge=0, le=1)
    drawn: Drawn


@dataclass(frozen=True)
class Reference:
    """A set of images to compare with.

    Attributes:
        drawn: what they were drawn with.
        shown: uint8 ``[K, C, H, W]``, images 0 to K - 1.
        extractor: what features are those of the statistics, by name and a hash of its weights;
            None where nothing extracts features.
        images: statistics of all images' features, or None.
        data: statistics of real images' features, or None.
        accuracy: share of images that a classifier labels as asked, or None.
        blocks: the images' statistics in blocks, for intervals; None where there are none.
    """

    drawn: Drawn
    shown: NDArray[np.uint8]
    extractor: str | None = None
    images: FeatureStatistics | None = None
    data: FeatureStatistics | None = None
    accuracy: float | None = None
    blocks: FeatureBlocks | None = None


def write_reference(path: Path, reference: Reference) -> None:
    """Write the file, whole or not at all."""
    tensors: dict[str, NDArray[Any]] = {_SHOWN: np.ascontiguousarray(reference.shown)}
    counts = {}
    for name, part in ((_IMAGES, reference.images), (_DATA, reference.data)):
        if part is not None:
            counts[name] = part.count
            tensors |= {f"{name}.mean": part.mean, f"{name}.scatter": part.scatter}
    if reference.blocks is not None:
        own = reference.blocks
        fields = {"count": own.counts, "mean": own.means, "scatter": own.scatters}
        tensors |= {f"{_BLOCKS}.{name}": value for name, value in fields.items()}
    header = _Header(
        version=_VERSION,
        extractor=reference.extractor,
        counts=counts,
        accuracy=reference.accuracy,
        drawn=reference.drawn,
    )
    with staged_tensor_file(path) as stage:
        save_file(tensors, stage, metadata={_KEY: header.model_dump_json()})


def read_reference(path: str | Path) -> Reference:
    """Read such a file; raises ReferenceFileError on anything that is not right."""
    reference = read_part(path)
    count = None if reference.images is None else reference.images.count
    if count is not None and count != reference.drawn.num_images:
        why = f"It is of {count} of {reference.drawn.num_images} images"
        raise _malformed(Path(path), why)
    for part in (reference.images, reference.data):
        if part is not None and part.count < 2:
            raise _malformed(Path(path), "A covariance is of two images at least")
    return reference


def read_part(path: str | Path) -> Reference:
    """As :func:`read_reference`, of some of the images."""
    path = Path(path)
    _require_plain(path)
    try:
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(_KEY, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _malformed(path, str(error)) from error
    header = _header(path, text)
    if fault := wrong_type(header.drawn.scheduler):
        raise _malformed(path, f"drawn.scheduler.{fault.option}: {fault.why}")
    parts = {name: _statistics(path, tensors, name, header) for name in (_IMAGES, _DATA)}
    blocks = _blocks(path, tensors, parts[_IMAGES])
    shown = tensors.pop(_SHOWN, None)
    most = min(SHOWN, header.drawn.num_images)
    if shown is None or shown.dtype != np.uint8 or shown.ndim != 4 or len(shown) > most:
        raise _malformed(path, f"'{_SHOWN}' is no uint8 [up to {most}, C, H, W]")
    if tensors:
        raise _malformed(path, f"It holds {sorted(tensors)[:3]} beside what it should")
    found = [part for part in parts.values() if part is not None]
    if bool(found) != (header.extractor is not None):
        raise _malformed(path, "Features have a name, and a name has features")
    if len({len(part.mean) for part in found}) > 1:
        raise _malformed(path, "Its features are of different widths")
    return Reference(
        header.drawn, shown, header.extractor, parts[_IMAGES], parts[_DATA], header.accuracy, blocks
    )


def _require_plain(path: Path) -> None:
    """safetensors maps the file: it must be one, of a size that can be meant."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ReferenceFileError("The reference cannot be read", where=path, why=why) from error
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
        raise _malformed(path, f"It is no plain file of up to {_MOST_BYTES} bytes")


def _header(path: Path, text: str) -> _Header:
    if not 0 < len(text) <= _MOST_HEADER:
        raise _malformed(path, f"Its metadata has no '{_KEY}'")
    try:
        data = parse_json(text.encode(), path, ReferenceFileError)
        header = _Header.model_validate_json(json.dumps(_of_this_version(data)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _malformed(path, f"{place}: {first['msg']}") from error
    except (UnicodeEncodeError, RecursionError) as error:
        raise _malformed(path, str(error)) from error
    if header.version not in _READ:
        raise _malformed(path, f"It has version {header.version}, this program reads {_VERSION}")
    return header


def _of_this_version(header: Any) -> Any:
    """A header with who drew, which former versions said in the model's name alone."""
    drawn = header.get("drawn") if isinstance(header, dict) else None
    if not isinstance(drawn, dict) or header.get("version") not in (1, 2):
        return header
    full = drawn.get("model") == FULL_PRECISION
    by = DrawnBy.CHECKPOINT if full else DrawnBy.BUNDLE
    return {**header, "drawn": {"by": by, **drawn}}


def _statistics(
    path: Path, tensors: dict[str, NDArray[Any]], name: str, header: _Header
) -> FeatureStatistics | None:
    """Remove one set's tensors; None where the file has none of it."""
    mean, scatter = tensors.pop(f"{name}.mean", None), tensors.pop(f"{name}.scatter", None)
    count = header.counts.get(name)
    if mean is None and scatter is None and count is None:
        return None
    if mean is None or scatter is None or count is None or count < 0:
        raise _malformed(path, f"The statistics of '{name}' are not whole")
    fits = mean.ndim == 1 and scatter.shape == (len(mean), len(mean)) and len(mean)
    if not fits or mean.dtype != np.float64 or scatter.dtype != np.float64:
        raise _malformed(path, f"The statistics of '{name}' are no float64 [F] and [F, F]")
    if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
        raise _malformed(path, f"The statistics of '{name}' are not finite")
    if not np.array_equal(scatter, scatter.T) or (np.diag(scatter) < 0).any():
        raise _malformed(path, f"The scatter of '{name}' is none")
    return FeatureStatistics(count, mean, scatter)


def _blocks(
    path: Path, tensors: dict[str, NDArray[Any]], images: FeatureStatistics | None
) -> FeatureBlocks | None:
    """Remove the blocks' tensors; None where the file has none."""
    names = [f"{_BLOCKS}.{field}" for field in ("count", "mean", "scatter")]
    found = [tensors.pop(name, None) for name in names]
    counts, means, scatters = found
    if counts is None and means is None and scatters is None:
        return None
    if counts is None or means is None or scatters is None or images is None:
        raise _malformed(path, "Its blocks are not whole")
    width = len(images.mean)
    if (
        width > MOST_FEATURES
        or (counts.dtype, means.dtype, scatters.dtype) != (np.int64, np.float64, np.float64)
        or (counts.shape, means.shape) != ((BLOCKS,), (BLOCKS, width))
        or scatters.shape != (BLOCKS, width, width)
    ):
        raise _malformed(path, f"Its blocks are no int64 [{BLOCKS}] and float64 [{BLOCKS}, F, ...]")
    if (counts < 0).any() or (counts > images.count).any() or counts.sum() != images.count:
        raise _malformed(path, "Its blocks are of other images than its statistics")
    if not (np.isfinite(means).all() and np.isfinite(scatters).all()):
        raise _malformed(path, "Its blocks are not finite")
    if not np.array_equal(scatters, scatters.transpose(0, 2, 1)):
        raise _malformed(path, "The scatter of a block is none")
    return FeatureBlocks(counts, means, scatters)


def _malformed(path: Path, why: str) -> ReferenceFileError:
    return ReferenceFileError("The file is no reference", where=path, why=why, fix=_FIX)
