"""The GPU kernels: whether they can run here, and if not, why.

Nothing is compiled. CUDA's driver is asked for its version and its GPU; torch is not imported.
"""

from __future__ import annotations

from ...errors import RuntimeUnavailable
from ...packages import installed_version
from ...runtimes.cuda.driver import Driver
from ...runtimes.cuda.gpu import find_gpu
from ...runtimes.gpu_kernels.choice import nvrtc_code, require_capable
from ...runtimes.gpu_kernels.library_file import (
    LIBRARY_VARIABLE,
    named_library,
    nvcc_library,
    nvcc_program,
)
from .finding import Finding

_SUBJECT = "GPU kernels"
_REFERENCE = "--runtime torch runs the integer reference on the processor"


def gpu_kernels_finding(has_card: bool) -> Finding:
    """What ``--runtime torch`` and TensorRT's plugin in Python would run here."""
    if not has_card:
        return Finding(_SUBJECT, True, f"no NVIDIA GPU found that they run on: {_REFERENCE}")
    torch = installed_version("torch")
    if torch is not None and torch.endswith("+cpu"):
        detail = f"torch {torch} was built without CUDA: {_REFERENCE}"
        return Finding(_SUBJECT, False, detail, "Install a CUDA build of torch")
    try:
        kernels = _kernels()
    except RuntimeUnavailable as error:
        why = error.why or error.where
        return Finding(_SUBJECT, False, f"{error.what}: {why}; {_REFERENCE}", error.fix)
    if torch is None:
        detail = f"{kernels}; torch is not installed, so for TensorRT alone"
        return Finding(_SUBJECT, True, detail, "For --runtime torch: pip install 'mpq-export[gpu]'")
    return Finding(_SUBJECT, True, kernels)


def _kernels() -> str:
    """Where they come from, or will; raises RuntimeUnavailable where they cannot be had."""
    if (named := named_library()) is not None:
        return f"{LIBRARY_VARIABLE} names {named}"
    driver = Driver.load()
    gpu = find_gpu(driver)
    require_capable(gpu)
    if (nvcc := nvcc_program()) is not None:
        library = nvcc_library(nvcc, gpu.capability)
        if library.is_there:
            return f"compiled before by {nvcc}: {library.path.name}"
        return f"compiled on first use with {nvcc}"
    code = nvrtc_code(gpu, driver)
    if code.is_there:
        return f"no nvcc; compiled before by {code.compiler} for {code.target}"
    return f"no nvcc; compiled on first use with {code.compiler}"
