"""CUDA's driver through ctypes: as much of it as launches kernels from loaded code.

Nothing here needs torch: pointers and streams are integers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RuntimeUnavailable
from .interface import CLaunch

LIBRARY = "libcuda.so.1"
LEAST_VERSION = (12, 0)
"""Code that belongs to no context came with it."""
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
_MOST_SHARED_BYTES = 8

_HANDLE = ctypes.c_void_p
_NUMBER = ctypes.POINTER(ctypes.c_int)
_OUT = ctypes.POINTER(_HANDLE)
_TEXT = ctypes.POINTER(ctypes.c_char_p)
_FUNCTIONS: dict[str, list[Any]] = {
    "cuInit": [ctypes.c_uint],
    "cuDriverGetVersion": [_NUMBER],
    "cuDeviceGet": [_NUMBER, ctypes.c_int],
    "cuDeviceGetAttribute": [_NUMBER, ctypes.c_int, ctypes.c_int],
    "cuDevicePrimaryCtxRetain": [_OUT, ctypes.c_int],
    "cuCtxGetCurrent": [_OUT],
    "cuCtxSetCurrent": [_HANDLE],
    "cuGetErrorName": [ctypes.c_int, _TEXT],
    "cuGetErrorString": [ctypes.c_int, _TEXT],
}
_LAUNCHING: dict[str, list[Any]] = {
    # library, code; options, values and count: of the compiler, of the library
    "cuLibraryLoadData": [
        _OUT, ctypes.c_char_p, _HANDLE, _HANDLE, ctypes.c_uint, _HANDLE, _HANDLE, ctypes.c_uint,
    ],
    "cuLibraryGetKernel": [_OUT, _HANDLE, ctypes.c_char_p],
    "cuKernelSetAttribute": [ctypes.c_int, ctypes.c_int, _HANDLE, ctypes.c_int],
    # kernel, grid, thread block, shared memory, stream, parameters, extra
    "cuLaunchKernel": [_HANDLE, *[ctypes.c_uint] * 7, _HANDLE, _OUT, _HANDLE],
}  # fmt: skip
_NOT_FOUND = 500


@dataclass(frozen=True)
class Gpu:
    """A GPU as kernels are chosen for it.

    Attributes:
        ordinal: its number among those that the process sees.
        capability: compute capability.
        multiprocessors: how many it has.
    """

    ordinal: int
    capability: tuple[int, int]
    multiprocessors: int


class CudaDriver:
    """The driver of this machine's GPUs.

    Attributes:
        version: the newest CUDA that it runs, (13, 0).
    """

    def __init__(self, path: str = LIBRARY) -> None:
        """Load and start it.

        Raises:
            RuntimeUnavailable: there is none, it is too old, or it finds no GPU.
        """
        try:
            self._functions = ctypes.CDLL(path)
            self._declare(_FUNCTIONS)
        except (OSError, AttributeError) as error:
            raise RuntimeUnavailable(
                "CUDA's driver cannot be loaded", where=path, why=str(error)
            ) from error
        self._check("cuInit", 0)
        version = ctypes.c_int()
        self._check("cuDriverGetVersion", ctypes.byref(version))
        self.version = version.value // 1000, version.value % 1000 // 10
        if self.version < LEAST_VERSION:
            raise RuntimeUnavailable(
                "CUDA's driver is too old for the GPU kernels",
                why=f"It runs CUDA {_dotted(self.version)}; {_dotted(LEAST_VERSION)} is needed",
                fix="Install a newer driver",
            )
        self._declare(_LAUNCHING)
        self._contexts: dict[int, ctypes.c_void_p] = {}

    def _declare(self, functions: dict[str, list[Any]]) -> None:
        for name, types in functions.items():
            getattr(self._functions, name).argtypes = types

    def gpu(self, ordinal: int) -> Gpu:
        """A GPU by its number; raises RuntimeUnavailable if there is none."""
        device = self._device(ordinal)
        major, minor, multiprocessors = (
            self._attribute(device, which) for which in (_MAJOR, _MINOR, _MULTIPROCESSORS)
        )
        return Gpu(ordinal, (major, minor), multiprocessors)

    def kernels(
        self, images: Sequence[bytes], wanted: Sequence[tuple[str, int]], ordinal: int
    ) -> dict[bytes, ctypes.c_void_p]:
        """Load code, which stays, and find its kernels.

        Args:
            images: cubins or PTX.
            wanted: names, and the most shared memory that each may be launched with, in bytes.
            ordinal: the GPU's.

        Raises:
            RuntimeUnavailable: the driver does not take the code, or a kernel is not in it.
        """
        device = self._device(ordinal)
        libraries = [self._library(image) for image in images]
        found = {}
        for name, shared_bytes in wanted:
            kernel = self._kernel(libraries, name)
            self._check("cuKernelSetAttribute", _MOST_SHARED_BYTES, shared_bytes, kernel, device)
            found[name.encode()] = kernel
        return found

    def launch(
        self, kernel: ctypes.c_void_p, launch: CLaunch, ordinal: int, stream: int | None
    ) -> int:
        """Launch a kernel; 0, or the driver's status.

        A thread without a context gets the GPU's primary one, as CUDA's runtime would give it.
        """
        status = self._require_context(ordinal)
        if status != 0:
            return status
        parameters = (_HANDLE * 1)(ctypes.addressof(launch.argument))
        status = self._functions.cuLaunchKernel(
            kernel, *launch.grid, launch.threads, 1, 1, launch.shared_bytes, stream, parameters,
            None,
        )  # fmt: skip
        return status

    def status_text(self, status: int) -> str:
        """What a status means: its name, and the driver's words."""
        parts = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            getattr(self._functions, function)(status, ctypes.byref(text))
            parts.append((text.value or b"unknown").decode(errors="replace"))
        return f"{status} {parts[0]}: {parts[1]}"

    def _require_context(self, ordinal: int) -> int:
        current = ctypes.c_void_p()
        status: int = self._functions.cuCtxGetCurrent(ctypes.byref(current))
        if status != 0 or current.value:
            return status
        if ordinal not in self._contexts:
            context = ctypes.c_void_p()
            status = self._functions.cuDevicePrimaryCtxRetain(
                ctypes.byref(context), self._device(ordinal)
            )
            if status != 0:
                return status
            self._contexts[ordinal] = context
        status = self._functions.cuCtxSetCurrent(self._contexts[ordinal])
        return status

    def _library(self, image: bytes) -> ctypes.c_void_p:
        library = ctypes.c_void_p()
        self._check("cuLibraryLoadData", ctypes.byref(library), image, None, None, 0, None, None, 0)
        return library

    def _kernel(self, libraries: Sequence[ctypes.c_void_p], name: str) -> ctypes.c_void_p:
        kernel = ctypes.c_void_p()
        for library in libraries:
            status = self._functions.cuLibraryGetKernel(
                ctypes.byref(kernel), library, name.encode()
            )
            if status == 0:
                return kernel
            if status != _NOT_FOUND:
                break
        raise self._refused(f"cuLibraryGetKernel, {name}", status)

    def _device(self, ordinal: int) -> int:
        device = ctypes.c_int()
        self._check("cuDeviceGet", ctypes.byref(device), ordinal)
        return device.value

    def _attribute(self, device: int, which: int) -> int:
        value = ctypes.c_int()
        self._check("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def _check(self, function: str, *arguments: object) -> None:
        status = getattr(self._functions, function)(*arguments)
        if status != 0:
            raise self._refused(function, status)

    def _refused(self, where: str, status: int) -> RuntimeUnavailable:
        return RuntimeUnavailable(
            "CUDA's driver refused what the GPU kernels need",
            where=where,
            why=self.status_text(status),
            fix="Run nvidia-smi, which names the driver and its GPUs",
        )


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
