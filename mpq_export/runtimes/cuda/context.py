"""The context that a thread works in: a GPU's primary one, which CUDA's runtime uses, too."""

from __future__ import annotations

from ctypes import byref, c_void_p

from .driver import Driver
from .gpu import device_handle


class PrimaryContext:
    """A GPU's, which the process keeps once it has been used."""

    def __init__(self, driver: Driver, ordinal: int) -> None:
        self._driver, self._ordinal = driver, ordinal
        self._handle: c_void_p | None = None

    def make_current(self) -> None:
        """Make it this thread's, whatever it had; raises RuntimeUnavailable."""
        if (status := self._set()) != 0:
            raise self._driver.refusal("cuCtxSetCurrent", status)

    def require_any(self) -> int:
        """Make it this thread's unless that has one, as CUDA's runtime does; 0, or a status."""
        current = c_void_p()
        status = self._driver.status("cuCtxGetCurrent", byref(current))
        if status != 0 or current.value:
            return status
        return self._set()

    def _set(self) -> int:
        if self._handle is None:
            handle = c_void_p()
            device = device_handle(self._driver, self._ordinal)
            status = self._driver.status("cuDevicePrimaryCtxRetain", byref(handle), device)
            if status != 0:
                return status
            self._handle = handle
        return self._driver.status("cuCtxSetCurrent", self._handle)
