"""``libcuda`` through ctypes: the few calls that a runtime without torch needs.

The driver's interface is stable: functions keep their signature under their name with its version
suffix, and all below are there from CUDA 11.4 on. Every status is checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

from ...errors import RuntimeUnavailable

LIBRARY = "libcuda.so.1"
_ADDRESS = c_uint64
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(_ADDRESS), c_size_t),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _ADDRESS, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}
_MULTIPROCESSORS, _MAJOR, _MINOR, _INTEGRATED = 16, 75, 76, 18
"""Of ``CUdevice_attribute``."""
_NON_BLOCKING_STREAM, _THREAD_LOCAL_CAPTURE = 1, 1
_LONGEST_NAME = 256


@dataclass(frozen=True)
class Gpu:
    """What is known of a GPU before anything runs on it.

    Attributes:
        name: its product name.
        capability: compute capability, such as ``(8, 7)``.
        multiprocessors: how many.
        memory: bytes.
        shares_memory: whether its memory is the processor's, as on a Jetson.
        driver: newest version of CUDA that the driver knows, such as ``(12, 6)``.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory: int
    shares_memory: bool
    driver: tuple[int, int]

    @property
    def sm(self) -> str:
        """Such as ``87``."""
        return "".join(map(str, self.capability))


class Driver:
    """The loaded driver, initialised, with the first GPU's primary context on request.

    ``CUDA_VISIBLE_DEVICES`` says which GPU is the first, as everywhere.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        """Declare all functions; raises RuntimeUnavailable where one is missing or it fails."""
        self._calls: dict[str, Callable[..., int]] = {}
        for name, types in _SIGNATURES.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                raise RuntimeUnavailable(
                    "The NVIDIA driver is too old", where=LIBRARY, why=f"It has no {name}"
                ) from error
            function.argtypes, function.restype = types, c_int
            self._calls[name] = function
        self.call("cuInit", 0)

    @classmethod
    def load(cls) -> Driver:
        """The system's driver; raises RuntimeUnavailable where there is none."""
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise RuntimeUnavailable(
                "There is no NVIDIA driver", where=LIBRARY, why=str(error)
            ) from error
        return cls(library)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function by its name in the library.

        Raises:
            RuntimeUnavailable: its status is not 0; says the function and the driver's words.
        """
        status = self._calls[name](*arguments)
        if status != 0:
            raise RuntimeUnavailable(
                "CUDA's driver refused a call", where=name, why=self._said(status)
            )

    def release(self, name: str, handle: Any) -> None:
        """Give something back; at the process's end the driver may already have done so itself."""
        self._calls[name](handle)

    def gpu(self) -> Gpu:
        """The first GPU; raises RuntimeUnavailable where there is none."""
        count, device, version = c_int(), c_int(), c_int()
        self.call("cuDeviceGetCount", byref(count))
        if count.value < 1:
            raise RuntimeUnavailable("There is no GPU", why="CUDA's driver finds none")
        self.call("cuDeviceGet", byref(device), 0)
        self.call("cuDriverGetVersion", byref(version))
        name, memory = ctypes.create_string_buffer(_LONGEST_NAME), c_size_t()
        self.call("cuDeviceGetName", name, _LONGEST_NAME, device)
        self.call("cuDeviceTotalMem_v2", byref(memory), device)

        def attribute(number: int) -> int:
            value = c_int()
            self.call("cuDeviceGetAttribute", byref(value), number, device)
            return value.value

        return Gpu(
            name.value.decode(errors="replace"),
            (attribute(_MAJOR), attribute(_MINOR)),
            attribute(_MULTIPROCESSORS),
            memory.value,
            bool(attribute(_INTEGRATED)),
            (version.value // 1000, version.value % 1000 // 10),
        )

    def make_current(self) -> None:
        """Make the first GPU's primary context, which CUDA's runtime uses, this thread's own."""
        device, context = c_int(), c_void_p()
        self.call("cuDeviceGet", byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def stream(self) -> int:
        """A stream that does not wait for the default one; it lives as long as the process."""
        stream = c_void_p()
        self.call("cuStreamCreate", byref(stream), _NON_BLOCKING_STREAM)
        return stream.value or 0

    def synchronize(self, stream: int) -> None:
        """Wait for all that was launched on a stream."""
        self.call("cuStreamSynchronize", stream)

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy from page-locked memory, in the stream's order."""
        self.call("cuMemcpyHtoDAsync_v2", target, source, size, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy to page-locked memory, in the stream's order."""
        self.call("cuMemcpyDtoHAsync_v2", target, source, size, stream)

    def record(self, launch: Callable[[], None], stream: int) -> Graph:
        """What ``launch`` puts on a stream, as a graph; nothing of it runs.

        Raises whatever ``launch`` raises, and RuntimeUnavailable where it cannot be recorded.
        """
        self.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL_CAPTURE)
        captured = c_void_p()
        try:
            launch()
        except BaseException:
            # The stream must leave capture mode; that this fails too is no news.
            if self._calls["cuStreamEndCapture"](stream, byref(captured)) == 0:
                self.release("cuGraphDestroy", captured)
            raise
        self.call("cuStreamEndCapture", stream, byref(captured))
        executable = c_void_p()
        try:
            self.call("cuGraphInstantiateWithFlags", byref(executable), captured, 0)
        finally:
            self.call("cuGraphDestroy", captured)
        return Graph(self, executable)

    def _said(self, status: int) -> str:
        texts = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = c_char_p()
            if self._calls[function](status, byref(text)) == 0 and text.value:
                texts.append(text.value.decode(errors="replace"))
        return ": ".join(texts) or f"status {status}"


class DeviceBuffer:
    """Bytes on the GPU; they live as long as this object."""

    def __init__(self, driver: Driver, size: int) -> None:
        address = _ADDRESS()
        driver.call("cuMemAlloc_v2", byref(address), max(size, 1))
        self._driver, self.address, self.size = driver, int(address.value), size

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._driver.release("cuMemFree_v2", self.address)


class PinnedBuffer:
    """Page-locked bytes of the processor, which the GPU copies by itself."""

    def __init__(self, driver: Driver, size: int) -> None:
        address = c_void_p()
        driver.call("cuMemHostAlloc", byref(address), max(size, 1), 0)
        self._driver, self.address, self.size = driver, address.value or 0, size

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._driver.release("cuMemFreeHost", self.address)


class Graph:
    """Recorded work that can be launched again; it lives as long as this object."""

    def __init__(self, driver: Driver, executable: c_void_p) -> None:
        self._driver, self._executable = driver, executable

    def launch(self, stream: int) -> None:
        """Do all of it, in the stream's order."""
        self._driver.call("cuGraphLaunch", self._executable, stream)

    def __del__(self) -> None:
        self._driver.release("cuGraphExecDestroy", self._executable)


def gpu_here() -> Gpu | str:
    """The first GPU, or why there is none in a few words."""
    try:
        return Driver.load().gpu()
    except RuntimeUnavailable as error:
        return f"{error.what[:1].lower()}{error.what[1:]}"
