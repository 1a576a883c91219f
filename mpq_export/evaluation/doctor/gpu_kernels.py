"""The GPU kernels of ``--runtime torch``: whether they can run here, and if not, why.

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
    """What ``--runtime torch`` would do here."""
    if not has_card:
        return Finding(_SUBJECT, True, f"no NVIDIA GPU found that they run on: {_REFERENCE}")
    torch = installed_version("torch")
    if torch is None:
        return Finding(_SUBJECT, False, "torch is not installed", "pip install 'mpq-export[gpu]'")
    if torch.endswith("+cpu"):
        detail = f"torch {torch} was built without CUDA: {_REFERENCE}"
        return Finding(_SUBJECT, False, detail, "Install a CUDA build of torch")
    try:
        named = named_library()
    except RuntimeUnavailable as error:
        return Finding(_SUBJECT, False, f"{error.what}: {error.where}", error.fix)
    if named is not None:
        return Finding(_SUBJECT, True, f"{LIBRARY_VARIABLE} names {named}")
    try:
        return Finding(_SUBJECT, True, _compiled_by())
    except RuntimeUnavailable as error:
        why = f"{error.what}: {error.why}" if error.why else error.what
        return Finding(_SUBJECT, False, f"{why}; {_REFERENCE}", error.fix)


def _compiled_by() -> str:
    """What has compiled them, or will; raises RuntimeUnavailable where nothing can."""
    driver = Driver.load()
    gpu = find_gpu(driver)
    require_capable(gpu)
    if (nvcc := nvcc_program()) is not None:
        library = nvcc_library(nvcc, gpu.capability)
        if library.is_there:
            return f"compiled before by {nvcc}: {library.path.name}"
        return f"--runtime torch compiles them on first use with {nvcc}"
    code = nvrtc_code(gpu, driver)
    if code.is_there:
        return f"no nvcc; compiled before by {code.compiler} for {code.target}"
    return f"no nvcc; --runtime torch compiles them on first use with {code.compiler}"
