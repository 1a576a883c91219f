"""Kernels of loaded code: cubins or PTX in, launches out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import byref, c_void_p

from .context import PrimaryContext
from .driver import Driver
from .gpu import device_handle

_MOST_SHARED_BYTES = 8
"""Of ``CUfunction_attribute``."""
_NOT_FOUND = 500


class LoadedCode:
    """Code on a GPU, which stays as long as the process."""

    def __init__(
        self, driver: Driver, images: Sequence[bytes], wanted: Mapping[str, int], ordinal: int
    ) -> None:
        """Load it, and find its kernels.

        Args:
            driver: launches it.
            images: cubins or PTX.
            wanted: names, and the most shared memory that each may be launched with, in bytes.
            ordinal: the GPU's.

        Raises:
            RuntimeUnavailable: the driver does not take the code, or a kernel is not in it.
        """
        self._driver, self._context = driver, PrimaryContext(driver, ordinal)
        device = device_handle(driver, ordinal)
        libraries = [self._library(image) for image in images]
        self._kernels = {}
        for name, shared_bytes in wanted.items():
            kernel = self._kernel(libraries, name)
            driver.call("cuKernelSetAttribute", _MOST_SHARED_BYTES, shared_bytes, kernel, device)
            self._kernels[name.encode()] = kernel

    def launch(
        self,
        kernel: bytes,
        grid: Sequence[int],
        threads: int,
        shared_bytes: int,
        argument: int,
        stream: int | None,
    ) -> int:
        """Launch a kernel of one argument; 0, or the driver's status.

        A thread without a context gets the GPU's primary one, as CUDA's runtime would give it.

        Args:
            kernel: its name.
            grid: thread blocks along x, y and z.
            threads: of a block.
            shared_bytes: of a block.
            argument: the address of it.
            stream: what it waits for; None is the default stream.
        """
        if (status := self._context.require_any()) != 0:
            return status
        parameters = (c_void_p * 1)(argument)
        return self._driver.status(
            "cuLaunchKernel", self._kernels[kernel], *grid, threads, 1, 1, shared_bytes, stream,
            parameters, None,
        )  # fmt: skip

    def _library(self, image: bytes) -> c_void_p:
        library = c_void_p()
        self._driver.call("cuLibraryLoadData", byref(library), image, None, None, 0, None, None, 0)
        return library

    def _kernel(self, libraries: Sequence[c_void_p], name: str) -> c_void_p:
        kernel, status = c_void_p(), _NOT_FOUND
        for library in libraries:
            status = self._driver.status(
                "cuLibraryGetKernel", byref(kernel), library, name.encode()
            )
            if status == 0:
                return kernel
            if status != _NOT_FOUND:
                break
        raise self._driver.refusal(f"cuLibraryGetKernel, {name}", status)
