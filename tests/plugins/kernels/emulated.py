"""The kernels on an emulated GPU: built by the C++ compiler, called through their C interface."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mpq_export.core.integer_reference import ConvGeometry, PackedLayer
from mpq_export.core.kernel_layout import to_kernel_layout

KERNELS = Path(__file__).parents[3] / "plugins" / "kernels"
BUILDS = Path(__file__).parents[3] / "build" / "kernels"

_LAYER_ARRAYS = (
    "words", "tile_begins", "steps", "scale", "bias", "row_sums", "output_rows", "act_scale",
    "act_zero_point", "input_factor", "input_shift",
)  # fmt: skip
_LAYER_SIZES = ("rows", "channels", "group", "max_planes", "act_bits", "top_shift", "linear")
_GEOMETRY = (("kernel_shape", 2), ("strides", 2), ("pads", 4), ("dilations", 2))


class CLayer(ctypes.Structure):
    """MpqLayer of mpq_kernels.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _LAYER_ARRAYS),
        *((name, ctypes.c_int32) for name in _LAYER_SIZES),
        *((name, ctypes.c_int32 * size) for name, size in _GEOMETRY),
    )


class CCall(ctypes.Structure):
    """MpqCall of mpq_kernels.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "y", "residual", "step_index", "workspace")),
        ("workspace_bytes", ctypes.c_size_t),
        *((name, ctypes.c_int32) for name in ("batch", "height", "width")),
        ("float16", ctypes.c_int32),
        ("multiprocessors", ctypes.c_int32),
    )


def emulated_library(kernels: Path = KERNELS) -> Path:
    """The kernels below a folder as a library, built anew where a source has changed."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        reason = "emulating the GPU kernels needs g++"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    digest = hashlib.sha256()
    for source in sorted(path for path in kernels.rglob("*") if path.suffix in _SOURCES):
        digest.update(source.relative_to(kernels).as_posix().encode() + source.read_bytes())
    library = BUILDS / f"emulated-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        BUILDS.mkdir(parents=True, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        subprocess.run([kernels / "emulation" / "build.sh", made], check=True)
        made.rename(library)
    return library


_SOURCES = {".cu", ".cpp", ".h", ".sh"}


class Buffer:
    """Memory of the emulated GPU; what is read or written beside it kills the process."""

    def __init__(self, library: ctypes.CDLL, size: int) -> None:
        self._library = library
        self._handle = library.mpq_emulation_allocate(size)
        self.address = library.mpq_emulation_address(self._handle)
        self.size = size

    def __del__(self) -> None:
        self._library.mpq_emulation_free(self._handle)

    def fill(self, array: NDArray) -> Buffer:
        """Copy an array in and forbid writing."""
        contiguous = np.ascontiguousarray(array)
        ctypes.memmove(self.address, contiguous.ctypes.data, self.size)
        self._library.mpq_emulation_forbid_writing(self._handle)
        return self

    def read(self) -> bytes:
        """What it holds."""
        return ctypes.string_at(self.address, self.size)


class LaunchRefused(Exception):
    """The kernels, or the emulated GPU, did not take a call."""


@dataclass(frozen=True)
class PreparedCall:
    """A layer and a call of it, on the emulated GPU.

    Attributes:
        library: the kernels.
        layer: what they are given.
        call: what they are given; y is set by :meth:`multiply`.
        like: an array of y's shape and type.
        held: buffers that layer and call point into.
    """

    library: ctypes.CDLL
    layer: CLayer
    call: CCall
    like: NDArray[np.floating]
    held: tuple[Buffer, ...]

    def quantize(self) -> None:
        """The first launch. y is not looked at, but must be there."""
        out = Buffer(self.library, self.like.nbytes)
        self._launch(self.library.mpq_quantize, out.address)

    def multiply(self, begin: int = 0) -> NDArray[np.floating]:
        """The second launch, into a y of its own that begins as noise.

        Args:
            begin: y's first element in its buffer, which has as many behind y: neither may change.
        """
        edge = begin * self.like.itemsize
        out = Buffer(self.library, self.like.nbytes + 2 * edge)
        before = out.read()
        self._launch(self.library.mpq_multiply, out.address + edge)
        after = out.read()
        end = edge + self.like.nbytes
        assert after[:edge] + after[end:] == before[:edge] + before[end:]
        return np.frombuffer(after[edge:end], self.like.dtype).reshape(self.like.shape).copy()

    def _launch(self, launch: Callable[..., int], y: int) -> None:
        self.call.y = y
        status = launch(ctypes.byref(self.layer), ctypes.byref(self.call), None)
        if status != 0:
            raise LaunchRefused(f"status {status}")


@dataclass(frozen=True)
class EmulatedGpu:
    """A GPU of so many multiprocessors.

    Attributes:
        library: what :func:`emulated_library` built.
        multiprocessors: how finely the kernels cut their work.
    """

    library: ctypes.CDLL
    multiprocessors: int

    @classmethod
    def of(cls, path: Path, multiprocessors: int = 1) -> EmulatedGpu:
        """Load a library."""
        library = ctypes.CDLL(str(path))
        for name in ("mpq_emulation_allocate", "mpq_emulation_address"):
            getattr(library, name).restype = ctypes.c_void_p
        library.mpq_emulation_allocate.argtypes = [ctypes.c_size_t]
        library.mpq_workspace_bytes.restype = ctypes.c_size_t
        for name in ("address", "free", "forbid_writing"):
            getattr(library, f"mpq_emulation_{name}").argtypes = [ctypes.c_void_p]
        library.mpq_emulation_seed.argtypes = [ctypes.c_uint64]
        for name in ("mpq_quantize", "mpq_multiply"):
            function = getattr(library, name)
            function.argtypes = [ctypes.POINTER(CLayer), ctypes.POINTER(CCall), ctypes.c_void_p]
        return cls(library, multiprocessors)

    def prepare(
        self,
        layer: PackedLayer,
        x: NDArray[np.floating],
        step_index: int,
        residual: NDArray[np.floating] | None = None,
        seed: int = 0,
    ) -> PreparedCall:
        """A layer and its input in memory; threads take turns as the seed says."""
        self.library.mpq_emulation_seed(seed)
        buffers = {name: self._upload(array) for name, array in layer_arrays(layer).items()}
        c_layer = CLayer(
            **{name: buffer.address for name, buffer in buffers.items()}, **layer_sizes(layer)
        )
        y = np.empty(output_shape(layer, x.shape), x.dtype)
        places = {"x": self._upload(x), "step_index": self._upload(np.array([step_index], "<i4"))}
        if residual is not None:
            places["residual"] = self._upload(residual)
        call = CCall(
            **{name: buffer.address for name, buffer in places.items()},
            float16=x.dtype == np.float16,
            multiprocessors=self.multiprocessors,
            **call_sizes(layer, x.shape),
        )
        size = self.library.mpq_workspace_bytes(ctypes.byref(c_layer), ctypes.byref(call))
        assert size > 0
        workspace = Buffer(self.library, size)
        call.workspace, call.workspace_bytes = workspace.address, size
        held = (*buffers.values(), *places.values(), workspace)
        return PreparedCall(self.library, c_layer, call, y, held)

    def _upload(self, array: NDArray) -> Buffer:
        return Buffer(self.library, array.nbytes).fill(array)


def layer_arrays(layer: PackedLayer) -> dict[str, NDArray]:
    """What the pointers of MpqLayer point to."""
    kernel = to_kernel_layout(layer)
    return {
        name: getattr(kernel if hasattr(kernel, name) else layer, name) for name in _LAYER_ARRAYS
    }


def layer_sizes(layer: PackedLayer) -> dict[str, object]:
    """The numbers of MpqLayer."""
    conv = layer.conv or ConvGeometry((1, 1))
    return {
        "rows": layer.weight.rows,
        "channels": layer.input_channels,
        "group": conv.group,
        "max_planes": len(layer.weight.plane_rows),
        "act_bits": layer.act_bits,
        "top_shift": int(layer.input_shift.max()),
        "linear": layer.conv is None,
    } | {name: (ctypes.c_int32 * size)(*getattr(conv, name)) for name, size in _GEOMETRY}


def call_sizes(layer: PackedLayer, shape: tuple[int, ...]) -> dict[str, int]:
    """The sizes of x in MpqCall."""
    if layer.conv is None:
        return {"batch": 1, "height": 1, "width": int(np.prod(shape[:-1], dtype=int))}
    return {"batch": shape[0], "height": shape[2], "width": shape[3]}


def output_shape(layer: PackedLayer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of y."""
    if layer.conv is None:
        return (*shape[:-1], layer.weight.rows)
    return (shape[0], layer.weight.rows, *layer.conv.output_size(*shape[2:]))
