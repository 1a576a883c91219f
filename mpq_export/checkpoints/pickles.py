"""torch's own files, read with ``weights_only``: nothing in them is ever executed.

What trainers keep beside the weights (arguments, callbacks, numpy scalars) has classes of its own.
Those that are common are read as a stand-in that holds nothing; any other class refuses the file.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .state import Tensors, cannot_be_read

PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")

_BOOKKEEPING = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "pathlib.PosixPath",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "typing.Any",
)


class _Nothing:
    """Stands for an object that is not needed: takes whatever is given to it, keeps none."""

    def __new__(cls, *_: Any) -> _Nothing:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_pickle(path: Path) -> Any:
    """What a torch file holds; tensors of files since torch 1.6 stay on disk until they are used.

    Raises :class:`CheckpointError` for damaged files and for those that name any other class.
    """
    stand_ins: list[Any] = [(_Nothing, name) for name in _BOOKKEEPING]
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _require_uncompressed(path)
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "The file is a pickle that wants more than tensors",
            where=path,
            why="Loading it could run code, so it was not loaded",
            fix="Save it again as safetensors, from a place where you trust it",
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise cannot_be_read(path, error) from error


def _require_uncompressed(path: Path) -> None:
    """torch compresses nothing; an archive that does could unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if total > path.stat().st_size or any(entry.compress_type for entry in entries):
        raise CheckpointError(
            "The archive is compressed", where=path, why="torch does not write such files"
        )


def require_backed(tensors: Tensors, path: Path) -> None:
    """Raise unless the tensors are plain ones that together are no larger than their file.

    A pickle can name a tensor of any shape over a few stored bytes (strides of 0).
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CheckpointError(f"The tensor {name} is not a plain one", where=path)
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    stored = path.stat().st_size
    if claimed > stored:
        raise CheckpointError(
            "The tensors are larger than their file",
            where=path,
            why=f"{claimed} bytes by their shapes, {stored} in the file",
        )
