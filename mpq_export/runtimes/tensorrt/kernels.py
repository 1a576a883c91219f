"""Which kernels the plugin is given where an engine is built."""

from __future__ import annotations

from types import ModuleType

from ..cuda.gpu import Gpu, gpu_here
from ..gpu_kernels.choice import gpu_kernels
from ..gpu_kernels.interface import CCall, CLayer, KernelPlans
from ..gpu_kernels.plan_file import plan_library
from .plugin import register_plugins

_UNKNOWN_MULTIPROCESSORS = 32
_NOT_LAUNCHED = -1000


def multiprocessors(gpu: Gpu | str) -> int:
    """For how many the kernels cut their work, also where no GPU is."""
    return _UNKNOWN_MULTIPROCESSORS if isinstance(gpu, str) else gpu.multiprocessors


def register_for_building(trt: ModuleType) -> None:
    """Make the plugin known to a module: with the kernels of the GPU that is here, since TensorRT
    may time them; without one it is only asked for sizes.

    Raises:
        RuntimeUnavailable: they cannot be had.
    """
    gpu = gpu_here()
    kernels = AbsentKernels() if isinstance(gpu, str) else gpu_kernels(gpu)
    register_plugins(trt, kernels, multiprocessors(gpu))


class AbsentKernels:
    """Kernels of a GPU that is not here: what a call needs is known, launching it is refused."""

    origin = "not here"

    def __init__(self) -> None:
        """Raises RuntimeUnavailable where not even sizes can be had."""
        self._plans = KernelPlans(plan_library())

    def workspace_bytes(self, layer: CLayer, call: CCall) -> int:
        """As :class:`Kernels`."""
        return self._plans.workspace_bytes(layer, call)

    def quantize(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """Nothing; a negative status."""
        return _NOT_LAUNCHED

    def multiply(self, layer: CLayer, call: CCall, stream: int | None = None) -> int:
        """Nothing; a negative status."""
        return _NOT_LAUNCHED

    def status_text(self, status: int) -> str:
        """As :class:`Kernels`."""
        if status == _NOT_LAUNCHED:
            return "there is no GPU here"
        return self._plans.status_text(status)
