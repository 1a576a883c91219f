"""The native library for ONNX Runtime: whether packed nodes run in it, and on which kernels."""

from __future__ import annotations

from ...errors import UserError
from ...runtimes.native_library import KERNELS_VARIABLE, chosen_kernels, kernel_names
from .finding import Finding

_REWRITTEN = (
    "packed nodes are rewritten at load to QuantizeLinear and MatMulInteger, and their weights "
    "expanded to int8"
)


def native_library_finding() -> Finding:
    """Active with its kernels, or why the nodes are rewritten instead."""
    try:
        kernels, chosen = kernel_names(), chosen_kernels()
    except UserError as error:
        return Finding("native library", False, f"{_REWRITTEN}: {error.why}", error.fix)
    detail = (
        f"packed nodes run in it, on the kernels {chosen}; this processor has "
        f"{', '.join(kernels)} ({KERNELS_VARIABLE} chooses)"
    )
    return Finding("native library", True, detail)
