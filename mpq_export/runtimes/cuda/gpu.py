"""GPUs as CUDA's driver describes them."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int
from dataclasses import dataclass

from ...errors import RuntimeUnavailable
from .driver import Driver

_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76
"""Of ``CUdevice_attribute``."""
_LONGEST_NAME = 256


@dataclass(frozen=True)
class Gpu:
    """What is known of a GPU before anything runs on it.

    Attributes:
        ordinal: its number among those that the process sees; ``CUDA_VISIBLE_DEVICES`` says which.
        name: its product name.
        capability: compute capability, such as ``(8, 7)``.
        multiprocessors: how many it has.
    """

    ordinal: int
    name: str
    capability: tuple[int, int]
    multiprocessors: int

    @property
    def sm(self) -> str:
        """Such as ``87``."""
        return "".join(map(str, self.capability))


def find_gpu(driver: Driver, ordinal: int = 0) -> Gpu:
    """A GPU by its number; raises RuntimeUnavailable where there is none."""
    count = c_int()
    driver.call("cuDeviceGetCount", byref(count))
    if ordinal >= count.value:
        raise RuntimeUnavailable(
            "There is no GPU" if count.value == 0 else f"There is no GPU {ordinal}",
            why=f"CUDA's driver finds {count.value or 'none'}",
        )
    device, name = device_handle(driver, ordinal), ctypes.create_string_buffer(_LONGEST_NAME)
    driver.call("cuDeviceGetName", name, _LONGEST_NAME, device)
    capability = _attribute(driver, _MAJOR, device), _attribute(driver, _MINOR, device)
    said = name.value.decode(errors="replace")
    return Gpu(ordinal, said, capability, _attribute(driver, _MULTIPROCESSORS, device))


def is_integrated(driver: Driver, gpu: Gpu) -> bool:
    """Whether its memory is the processor's, as on a Jetson; raises RuntimeUnavailable."""
    return bool(_attribute(driver, _INTEGRATED, device_handle(driver, gpu.ordinal)))


def _attribute(driver: Driver, number: int, device: int) -> int:
    value = c_int()
    driver.call("cuDeviceGetAttribute", byref(value), number, device)
    return value.value


def device_handle(driver: Driver, ordinal: int) -> int:
    """What the driver calls a GPU; raises RuntimeUnavailable where it refuses."""
    device = c_int()
    driver.call("cuDeviceGet", byref(device), ordinal)
    return device.value


def gpu_here() -> Gpu | str:
    """The first GPU, or why there is none in a few words."""
    try:
        return find_gpu(Driver.load())
    except RuntimeUnavailable as error:
        return f"{error.what[:1].lower()}{error.what[1:]}"
