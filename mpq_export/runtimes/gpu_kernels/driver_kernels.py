"""Kernels as loaded code: planned by the package's own host code, launched by CUDA's driver.

For whoever has no library of nvcc's; torch is not needed, pointers and streams are integers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from ..cuda.code import LoadedCode
from ..cuda.driver import Driver
from .interface import CCall, CLaunch, CLayer, KernelPlans, Plan


class DriverKernels:
    """The kernels of loaded code on one GPU.

    Attributes:
        origin: where the code comes from, in a few words.
    """

    def __init__(
        self,
        origin: str,
        plans: KernelPlans,
        driver: Driver,
        images: Sequence[bytes],
        ordinal: int,
    ) -> None:
        """Load the code; it stays loaded.

        Args:
            origin: see above.
            plans: of the same sources as the code.
            driver: launches it.
            images: cubins or PTX that hold all kernels of the plans.
            ordinal: the GPU's number.

        Raises:
            RuntimeUnavailable: the driver does not take the code, or a kernel is not in it.
        """
        self.origin = origin
        self._plans, self._driver = plans, driver
        self._code = LoadedCode(driver, images, dict(plans.kernels()), ordinal)

    def workspace_bytes(self, layer: CLayer, call: CCall) -> int:
        """As :class:`Kernels`."""
        return self._plans.workspace_bytes(layer, call)

    def quantize(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """As :class:`Kernels`; a positive status is a CUresult."""
        return self._launch(self._plans.quantize, layer, call, stream)

    def multiply(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """As :class:`Kernels`; a positive status is a CUresult."""
        return self._launch(self._plans.multiply, layer, call, stream)

    def status_text(self, status: int) -> str:
        """As :class:`Kernels`."""
        if status > 0:
            return self._driver.status_text(status)
        return self._plans.status_text(status)

    def _launch(self, plan: Plan, layer: CLayer, call: CCall, stream: int | None) -> int:
        launch = CLaunch()
        status = plan(layer, call, launch)
        if status != 0:
            return status
        return self._code.launch(
            launch.kernel,
            launch.grid,
            launch.threads,
            launch.shared_bytes,
            ctypes.addressof(launch.argument),
            stream,
        )
