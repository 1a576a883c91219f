"""The GPU kernels of ``--runtime torch``: whether they can run here, and if not, why.

torch is asked only where there is a card: importing it takes seconds.
"""

from __future__ import annotations

import os

from ...errors import RuntimeUnavailable
from ...packages import installed_version
from ...runtimes.gpu_kernels.library_file import LIBRARY_VARIABLE, cache_folder, compiler
from .finding import Finding

_SUBJECT = "GPU kernels"
_REFERENCE = "--runtime torch runs the integer reference on the processor"


def gpu_kernels_finding(has_card: bool) -> Finding:
    """What ``--runtime torch`` would do here. Nothing is compiled."""
    if not has_card:
        return Finding(_SUBJECT, True, f"no NVIDIA GPU found that they run on: {_REFERENCE}")
    torch = installed_version("torch")
    if torch is None:
        return Finding(_SUBJECT, False, "torch is not installed", "pip install 'mpq-export[gpu]'")
    if torch.endswith("+cpu"):
        detail = f"torch {torch} was built without CUDA: {_REFERENCE}"
        return Finding(_SUBJECT, False, detail, "Install a CUDA build of torch")
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        there = os.path.isfile(named)
        detail = f"{LIBRARY_VARIABLE} names {named}" + ("" if there else ", which is not there")
        return Finding(_SUBJECT, there, detail, "" if there else "Unset it, or build the library")
    try:
        kept = sorted(cache_folder().glob("kernels-sm*.so"))
    except RuntimeUnavailable as error:
        return Finding(_SUBJECT, False, f"{error.why}: {_REFERENCE}", error.fix or "")
    if kept:
        return Finding(_SUBJECT, True, f"compiled before: {', '.join(path.name for path in kept)}")
    nvcc = compiler()
    if nvcc is None:
        detail = f"nvcc was not found, and {LIBRARY_VARIABLE} names no library: {_REFERENCE}"
        return Finding(
            _SUBJECT,
            False,
            detail,
            "Install CUDA's compiler; or build the library elsewhere, with "
            "plugins/kernels/build.sh",
        )
    return Finding(_SUBJECT, True, f"--runtime torch compiles them on first use with {nvcc}")
