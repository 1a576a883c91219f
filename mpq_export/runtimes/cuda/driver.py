"""``libcuda`` through ctypes: the driver's functions, called by their names.

Its interface is stable: functions keep their signature under their name with its version suffix.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from ...errors import RuntimeUnavailable

LIBRARY = "libcuda.so.1"
LEAST_VERSION = (12, 0)
"""Of CUDA. Code that belongs to no context came with it; all else below is older."""
ADDRESS = c_uint64
"""Of a GPU's memory."""
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxGetCurrent": (POINTER(c_void_p),),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(ADDRESS), c_size_t),
    "cuMemFree_v2": (ADDRESS,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (ADDRESS, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, ADDRESS, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    # library, code; options, values and count: of the compiler, of the library
    "cuLibraryLoadData": (
        POINTER(c_void_p), c_char_p, c_void_p, c_void_p, c_uint, c_void_p, c_void_p, c_uint,
    ),
    "cuLibraryGetKernel": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuKernelSetAttribute": (c_int, c_int, c_void_p, c_int),
    # kernel, grid, thread block, shared memory, stream, parameters, extra
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, POINTER(c_void_p), c_void_p),
}  # fmt: skip


class Driver:
    """The loaded driver, initialised.

    Attributes:
        version: the newest CUDA that it runs, such as ``(12, 6)``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        """Start it; raises RuntimeUnavailable where it is too old or refuses."""
        self._library = library
        self._functions: dict[str, Callable[..., int]] = {}
        self.call("cuInit", 0)
        version = c_int()
        self.call("cuDriverGetVersion", byref(version))
        self.version = version.value // 1000, version.value % 1000 // 10
        if self.version < LEAST_VERSION:
            raise RuntimeUnavailable(
                "The NVIDIA driver is too old",
                why=f"It runs CUDA {dotted(self.version)}; {dotted(LEAST_VERSION)} is needed",
                fix="Install a newer driver",
            )

    @classmethod
    def load(cls) -> Driver:
        """The system's driver; raises RuntimeUnavailable where there is none or as above."""
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise RuntimeUnavailable(
                "There is no NVIDIA driver",
                where=LIBRARY,
                why=str(error),
                fix="Without an NVIDIA GPU --runtime ort runs on the processor",
            ) from error
        return cls(library)

    def status(self, name: str, *arguments: Any) -> int:
        """Call a function by its name in the library; 0, or why not, as ``status_text`` says."""
        return self._function(name)(*arguments)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function by its name in the library.

        Raises:
            RuntimeUnavailable: its status is not 0; says the function and the driver's words.
        """
        if (status := self.status(name, *arguments)) != 0:
            raise self.refusal(name, status)

    def refusal(self, where: str, status: int) -> RuntimeUnavailable:
        """The error of a status that is not 0."""
        return RuntimeUnavailable(
            "The NVIDIA driver refused a call",
            where=where,
            why=self.status_text(status),
            fix="Run nvidia-smi, which names the driver and its GPUs",
        )

    def status_text(self, status: int) -> str:
        """What a status means: its name, and the driver's words."""
        parts = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = c_char_p()
            self.status(function, status, byref(text))
            parts.append((text.value or b"unknown").decode(errors="replace"))
        return f"{status} {parts[0]}: {parts[1]}"

    def _function(self, name: str) -> Callable[..., int]:
        if (function := self._functions.get(name)) is None:
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise RuntimeUnavailable(
                    "The NVIDIA driver lacks a function", where=LIBRARY, why=str(error)
                ) from error
            function.argtypes, function.restype = _SIGNATURES[name], c_int
            self._functions[name] = function
        return function


def dotted(version: tuple[int, int]) -> str:
    """Such as ``12.6``."""
    return ".".join(map(str, version))
