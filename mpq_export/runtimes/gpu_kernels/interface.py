"""The kernels' C interface (``plugins/kernels/include/mpq_kernels.h``) through ctypes.

Whoever runs layers sees :class:`Kernels`: here a library that launches by itself, and in
``driver_kernels`` code that CUDA's driver launches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ...core.kernel_layout import LAYOUT
from ...errors import RuntimeUnavailable

INTERFACE_VERSION = 3
"""Of the structures and functions below."""

LAYER_ARRAYS = (
    "words", "tile_begins", "steps", "scale", "bias", "row_sums", "output_rows", "act_scale",
    "act_zero_point", "input_factor", "input_shift",
)  # fmt: skip
"""The pointers of ``MpqLayer``, in its order."""
_LAYER_SIZES = ("rows", "channels", "group", "max_planes", "act_bits", "top_shift", "linear")
GEOMETRY = (("kernel_shape", 2), ("strides", 2), ("pads", 4), ("dilations", 2))


class CLayer(ctypes.Structure):
    """``MpqLayer``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in LAYER_ARRAYS),
        *((name, ctypes.c_int32) for name in _LAYER_SIZES),
        *((name, ctypes.c_int32 * size) for name, size in GEOMETRY),
    )


class CCall(ctypes.Structure):
    """``MpqCall``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "y", "residual", "step_index", "workspace")),
        ("workspace_bytes", ctypes.c_size_t),
        *((name, ctypes.c_int32) for name in ("batch", "height", "width")),
        ("float16", ctypes.c_int32),
        ("channels_last", ctypes.c_int32),
        ("multiprocessors", ctypes.c_int32),
    )


class CLaunch(ctypes.Structure):
    """``MpqLaunch``."""

    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32),
        ("shared_bytes", ctypes.c_uint32),
        ("argument_bytes", ctypes.c_uint32),
        ("argument", ctypes.c_uint64 * 64),
    )


class _CKernel(ctypes.Structure):
    """``MpqKernel``."""

    _fields_ = (("name", ctypes.c_char_p), ("shared_bytes", ctypes.c_uint32))


class Kernels(Protocol):
    """What runs packed layers on a device.

    ``quantize`` and ``multiply`` give a status: 0, negative where nothing was launched, else
    CUDA's own. They wait for nothing, and a CUDA graph can capture them.
    """

    @property
    def origin(self) -> str:
        """Where the kernels come from, in a few words."""

    def workspace_bytes(self, layer: CLayer, call: CCall) -> int:
        """Bytes that a call needs; 0 for one that would fail."""

    def quantize(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """The first launch: activations to int8 in the workspace."""

    def multiply(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """The second launch: y from the workspace."""

    def status_text(self, status: int) -> str:
        """What a status means, in words."""


class KernelLibrary:
    """A loaded library of the kernels, compiled for a GPU or for its emulation.

    Attributes:
        origin: where it comes from, in a few words.
        functions: the ``ctypes.CDLL``.
    """

    def __init__(self, path: Path, origin: str = "") -> None:
        """Load a library; raises RuntimeUnavailable unless it is one that we can call."""
        self.origin = origin or f"of {path}"
        self.functions, (workspace_bytes, *launches, text, self._ready) = _loaded(
            path, "mpq_workspace_bytes", "mpq_quantize", "mpq_multiply", "mpq_status_text",
            "mpq_ready",
        )  # fmt: skip
        self._path = path
        self._workspace_bytes, self._launches, self._status_text = workspace_bytes, launches, text
        workspace_bytes.restype, workspace_bytes.argtypes = ctypes.c_size_t, _DESCRIBED
        for launch in launches:
            launch.argtypes = [*_DESCRIBED, ctypes.c_void_p]
        text.restype = ctypes.c_char_p

    def require_ready(self) -> None:
        """Raise RuntimeUnavailable unless the driver and the current GPU run it."""
        status = self._ready()
        if status != 0:
            raise RuntimeUnavailable(
                "The GPU kernels' library does not run here",
                where=self._path,
                why=self.status_text(status),
                fix="Compile it for this GPU, with a CUDA that the driver is new enough for",
            )

    def workspace_bytes(self, layer: CLayer, call: CCall) -> int:
        """As :class:`Kernels`."""
        size: int = self._workspace_bytes(layer, call)
        return size

    def quantize(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """As :class:`Kernels`."""
        status: int = self._launches[0](layer, call, stream)
        return status

    def multiply(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """As :class:`Kernels`."""
        status: int = self._launches[1](layer, call, stream)
        return status

    def status_text(self, status: int) -> str:
        """As :class:`Kernels`."""
        text: bytes = self._status_text(status)
        return text.decode()


Plan = Callable[[CLayer, CCall, CLaunch], int]
"""Layer and call to a launch, and a status that is 0 or negative."""


class KernelPlans:
    """The host code that plans launches, which needs nothing of CUDA.

    Attributes:
        quantize: plans the first launch.
        multiply: plans the second one.
    """

    quantize: Plan
    multiply: Plan

    def __init__(self, path: Path) -> None:
        """Load a library; raises RuntimeUnavailable unless it is one that we can call."""
        _, (workspace_bytes, *plans, text, kernel) = _loaded(
            path, "mpq_workspace_bytes", "mpq_plan_quantize", "mpq_plan_multiply",
            "mpq_plan_status_text", "mpq_kernel",
        )  # fmt: skip
        self._workspace_bytes, self._status_text, self._kernel = workspace_bytes, text, kernel
        workspace_bytes.restype, workspace_bytes.argtypes = ctypes.c_size_t, _DESCRIBED
        for plan in plans:
            plan.argtypes = [*_DESCRIBED, ctypes.POINTER(CLaunch)]
        self.quantize, self.multiply = plans
        text.restype = ctypes.c_char_p
        kernel.argtypes, kernel.restype = [ctypes.c_int, ctypes.POINTER(_CKernel)], None

    def workspace_bytes(self, layer: CLayer, call: CCall) -> int:
        """As :class:`Kernels`."""
        size: int = self._workspace_bytes(layer, call)
        return size

    def status_text(self, status: int) -> str:
        """What a plan's status means."""
        text: bytes = self._status_text(status)
        return text.decode()

    def kernels(self) -> Iterator[tuple[str, int]]:
        """All kernels that launches name, and the most shared memory that each takes, in bytes."""
        kernel, index = _CKernel(), 0
        while True:
            self._kernel(index, kernel)
            if kernel.name is None:
                return
            yield kernel.name.decode(), kernel.shared_bytes
            index += 1


_DESCRIBED: list[Any] = [ctypes.POINTER(CLayer), ctypes.POINTER(CCall)]


def _loaded(path: Path, *names: str) -> tuple[ctypes.CDLL, list[Any]]:
    """A library of our interface and weight layout, and functions of it."""
    try:
        library = ctypes.CDLL(str(path))
        interface, layout = library.mpq_interface_version, library.mpq_layout_version
        layout.restype = ctypes.c_char_p
        versions = interface(), layout().decode()
        if versions != (INTERFACE_VERSION, LAYOUT):
            raise _unusable(
                path,
                f"It has interface {versions[0]} and weight layout {versions[1]}; "
                f"{INTERFACE_VERSION} and {LAYOUT} are needed",
            )
        return library, [getattr(library, name) for name in names]
    except (OSError, AttributeError) as error:
        raise _unusable(path, str(error)) from error


def _unusable(path: Path, why: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "The GPU kernels' library cannot be used",
        where=path,
        why=why,
        fix="Build it again from the sources of this version of mpq-export",
    )
