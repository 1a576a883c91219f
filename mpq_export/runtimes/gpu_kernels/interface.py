"""The kernels' C interface (``plugins/kernels/include/mpq_kernels.h``) through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.kernel_layout import LAYOUT
from ...errors import RuntimeUnavailable

INTERFACE_VERSION = 3
"""Of the structures below."""

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


Launch = Callable[[CLayer, CCall, int | None], int]
"""Layer, call and stream to a status: 0, negative where nothing was launched, else CUDA's own."""


class KernelLibrary:
    """A loaded library of the kernels, compiled for a GPU or for its emulation.

    Attributes:
        path: its file.
        functions: the ``ctypes.CDLL``.
    """

    def __init__(self, path: Path) -> None:
        """Load a library; raises RuntimeUnavailable unless it is one that we can call."""
        self.path = path
        try:
            self.functions = ctypes.CDLL(str(path))
            self._workspace_bytes = self.functions.mpq_workspace_bytes
            self._launches = [self.functions.mpq_quantize, self.functions.mpq_multiply]
            self._status_text = self.functions.mpq_status_text
            interface, layout = (
                self.functions.mpq_interface_version,
                self.functions.mpq_layout_version,
            )
        except (OSError, AttributeError) as error:
            raise _unusable(path, str(error)) from error
        layout.restype = ctypes.c_char_p
        versions = interface(), layout().decode()
        if versions != (INTERFACE_VERSION, LAYOUT):
            raise _unusable(
                path,
                f"It has interface {versions[0]} and weight layout {versions[1]}; "
                f"{INTERFACE_VERSION} and {LAYOUT} are needed",
            )
        described: list[Any] = [ctypes.POINTER(CLayer), ctypes.POINTER(CCall)]
        self._workspace_bytes.restype = ctypes.c_size_t
        self._workspace_bytes.argtypes = described
        for launch in self._launches:
            launch.argtypes = [*described, ctypes.c_void_p]
        self._status_text.restype = ctypes.c_char_p

    def workspace_bytes(self, layer: CLayer, call: CCall) -> int:
        """Bytes that a call needs; 0 for one that would fail."""
        size: int = self._workspace_bytes(layer, call)
        return size

    def quantize(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """The first launch: activations to int8 in the workspace."""
        status: int = self._launches[0](layer, call, stream)
        return status

    def multiply(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """The second launch: y from the workspace."""
        status: int = self._launches[1](layer, call, stream)
        return status

    def status_text(self, status: int) -> str:
        """What a status means, in words."""
        text: bytes = self._status_text(status)
        return text.decode()


def _unusable(path: Path, why: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "The GPU kernels' library cannot be used",
        where=path,
        why=why,
        fix="Build it again with plugins/kernels/build.sh of this version of mpq-export",
    )
