"""The kernels for a GPU: a library that is named, nvcc's, or what NVRTC makes."""

from __future__ import annotations

import logging

from ...errors import RuntimeUnavailable
from ..cuda.driver import Driver
from ..cuda.gpu import Gpu
from .device_code import DeviceCode, device_code
from .driver_kernels import DriverKernels
from .interface import KernelLibrary, KernelPlans, Kernels
from .library_file import LIBRARY_VARIABLE, named_library, nvcc_library, nvcc_program
from .nvrtc import nvrtc_libraries
from .plan_file import plan_library, why_no_plans

LEAST_CAPABILITY = (8, 0)
_log = logging.getLogger(__name__)
_loaded: dict[tuple[int, str], Kernels] = {}


def gpu_kernels(gpu: Gpu) -> Kernels:
    """The kernels for a GPU, compiled if need be.

    Where nvcc is there and fails, or the driver does not run its library, that is logged, and NVRTC
    is next. The GPU is the current one of CUDA's runtime.

    Raises:
        RuntimeUnavailable: they cannot be had; says why and what to do.
    """
    if (named := named_library()) is not None:
        return _ready(KernelLibrary(named))
    require_capable(gpu)
    nvcc = nvcc_program()
    no_nvcc = "nvcc was not found"
    if nvcc is not None:
        try:
            library = nvcc_library(nvcc, gpu.capability).file()
            return _ready(KernelLibrary(library, "compiled by nvcc"))
        except RuntimeUnavailable as error:
            no_nvcc = f"{nvcc} does not serve: {error.why}"
            _log.warning("The GPU kernels are compiled by NVRTC instead: %s", no_nvcc)
    try:
        return nvrtc_kernels(gpu)
    except RuntimeUnavailable as error:
        raise RuntimeUnavailable(
            "The GPU kernels are not compiled",
            why=f"{no_nvcc}; {error.what}{f': {error.why}' if error.why else ''}",
            fix=f"Install CUDA's compiler, or torch with CUDA's packages; or build the library "
            f"elsewhere with plugins/kernels/build.sh and name it with {LIBRARY_VARIABLE}",
        ) from error


def _ready(library: KernelLibrary) -> KernelLibrary:
    library.require_ready()
    return library


def require_capable(gpu: Gpu) -> None:
    """Raise RuntimeUnavailable for a GPU that is too old for the kernels."""
    if gpu.capability < LEAST_CAPABILITY:
        raise RuntimeUnavailable(
            "The GPU kernels do not run on this GPU",
            why=f"Its compute capability is {'.'.join(map(str, gpu.capability))}; they need 8.0 "
            f"or newer",
        )


def nvrtc_code(gpu: Gpu, driver: Driver) -> DeviceCode:
    """What NVRTC makes or has made for a GPU. Nothing is compiled.

    Raises:
        RuntimeUnavailable: it will not do here; says why.
    """
    if (reason := why_no_plans()) is not None:
        raise RuntimeUnavailable("What plans launches is not there", why=reason)
    return device_code(nvrtc_libraries(), gpu.capability, driver.version)


def nvrtc_kernels(gpu: Gpu) -> Kernels:
    """What NVRTC makes for a GPU, launched by CUDA's driver; whatever else there is.

    Raises:
        RuntimeUnavailable: it will not do here; says why.
    """
    driver = Driver.load()
    code = nvrtc_code(gpu, driver)
    images = code.images()
    # The driver keeps what it has loaded: the same code is loaded once.
    key = (gpu.ordinal, "".join(str(kept.path) for kept in code.files))
    if key not in _loaded:
        plans = KernelPlans(plan_library())
        origin = f"compiled by {code.compiler} for {code.target}"
        _loaded[key] = DriverKernels(origin, plans, driver, images, gpu.ordinal)
    return _loaded[key]
