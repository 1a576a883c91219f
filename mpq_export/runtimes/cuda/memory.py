"""Memory of the current context's GPU, and memory of the processor that it copies by itself."""

from __future__ import annotations

from ctypes import byref, c_size_t, c_void_p

from .driver import ADDRESS, Driver


def free_bytes(driver: Driver) -> int:
    """Of the current context's GPU, that no process has taken; raises RuntimeUnavailable."""
    free, total = c_size_t(), c_size_t()
    driver.call("cuMemGetInfo_v2", byref(free), byref(total))
    return free.value


class DeviceBuffer:
    """Bytes on the GPU, of any content; they live as long as this object.

    Attributes:
        address: of the first byte.
        size: how many.
    """

    def __init__(self, driver: Driver, size: int) -> None:
        """Raises RuntimeUnavailable where there is not as much."""
        address = ADDRESS()
        driver.call("cuMemAlloc_v2", byref(address), max(size, 1))
        self._driver, self.address, self.size = driver, int(address.value), size

    def __del__(self) -> None:
        if hasattr(self, "address"):  # at the process's end the driver may have done so itself
            self._driver.status("cuMemFree_v2", self.address)


class PinnedBuffer:
    """Page-locked bytes of the processor, of any content; they live as long as this object.

    Attributes:
        address: of the first byte.
        size: how many.
    """

    def __init__(self, driver: Driver, size: int) -> None:
        """Raises RuntimeUnavailable where there is not as much."""
        address = c_void_p()
        driver.call("cuMemHostAlloc", byref(address), max(size, 1), 0)
        self._driver, self.address, self.size = driver, address.value or 0, size

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._driver.status("cuMemFreeHost", self.address)
