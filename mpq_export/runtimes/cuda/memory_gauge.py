"""How much of a GPU's memory a model takes, by what is free before it is opened and after."""

from __future__ import annotations

from ...errors import RuntimeUnavailable
from .context import PrimaryContext
from .driver import Driver
from .gpu import Gpu, find_gpu, is_integrated
from .memory import free_bytes


class GpuMemory:
    """A gauge that is set when it is made: in the process of the model, before that is opened.

    CUDA's own context is made first, so it is not counted. The driver tells what all processes
    leave free; nothing else may begin or end on the GPU meanwhile.
    """

    def __init__(self, driver: Driver, gpu: Gpu) -> None:
        """Raises RuntimeUnavailable where the driver refuses."""
        self._driver, self._context = driver, PrimaryContext(driver, gpu.ordinal)
        self._free = self._left()

    @classmethod
    def set_here(cls) -> GpuMemory | str:
        """On the first GPU; or why that cannot be, in a few words."""
        try:
            driver = Driver.load()
            gpu = find_gpu(driver)
            if is_integrated(driver, gpu):
                return (
                    f"{gpu.name} shares its memory with the processor, where what is free depends "
                    "on files that are kept there, too"
                )
            return cls(driver, gpu)
        except RuntimeUnavailable as error:
            return error.paragraph()

    def taken(self) -> int:
        """Bytes since it was set; raises RuntimeUnavailable where the driver refuses."""
        return max(0, self._free - self._left())

    def _left(self) -> int:
        self._context.make_current()
        return free_bytes(self._driver)
