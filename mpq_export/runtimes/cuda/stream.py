"""Streams, on which a GPU works in order, and graphs: work recorded on one to be launched again."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref, c_void_p

from .driver import Driver
from .memory import DeviceBuffer, PinnedBuffer

_NON_BLOCKING, _THREAD_LOCAL_CAPTURE = 1, 1


class Stream:
    """A stream of the current context that does not wait for the default one.

    It lives as long as the process. What the driver refuses raises RuntimeUnavailable.

    Attributes:
        handle: what CUDA calls it.
    """

    def __init__(self, driver: Driver) -> None:
        handle = c_void_p()
        driver.call("cuStreamCreate", byref(handle), _NON_BLOCKING)
        self._driver, self.handle = driver, handle.value or 0

    def to_device(self, target: DeviceBuffer, source: PinnedBuffer) -> None:
        """Copy all of a buffer, when all before is done."""
        self._driver.call(
            "cuMemcpyHtoDAsync_v2", target.address, source.address, source.size, self.handle
        )

    def to_host(self, target: PinnedBuffer, source: DeviceBuffer) -> None:
        """Copy all of a buffer, when all before is done."""
        self._driver.call(
            "cuMemcpyDtoHAsync_v2", target.address, source.address, source.size, self.handle
        )

    def launch(self, graph: Graph) -> None:
        """Do all that was recorded, when all before is done."""
        self._driver.call("cuGraphLaunch", graph.executable, self.handle)

    def synchronize(self) -> None:
        """Wait for all that was put on it."""
        self._driver.call("cuStreamSynchronize", self.handle)

    def record(self, launch: Callable[[], None]) -> Graph:
        """What ``launch`` puts on the stream, as a graph; nothing of it runs.

        Raises whatever ``launch`` raises, and RuntimeUnavailable where it cannot be recorded.
        """
        driver, captured = self._driver, c_void_p()
        driver.call("cuStreamBeginCapture_v2", self.handle, _THREAD_LOCAL_CAPTURE)
        try:
            launch()
        except BaseException:
            # The stream must leave capture mode; that this fails too is no news.
            if driver.status("cuStreamEndCapture", self.handle, byref(captured)) == 0:
                driver.status("cuGraphDestroy", captured)
            raise
        driver.call("cuStreamEndCapture", self.handle, byref(captured))
        try:
            return Graph(driver, captured)
        finally:
            driver.call("cuGraphDestroy", captured)


class Graph:
    """Recorded work that can be launched; it lives as long as this object."""

    def __init__(self, driver: Driver, captured: c_void_p) -> None:
        """Raises RuntimeUnavailable where the driver cannot launch what was captured."""
        executable = c_void_p()
        driver.call("cuGraphInstantiateWithFlags", byref(executable), captured, 0)
        self._driver, self.executable = driver, executable

    def __del__(self) -> None:
        if hasattr(self, "executable"):
            self._driver.status("cuGraphExecDestroy", self.executable)
