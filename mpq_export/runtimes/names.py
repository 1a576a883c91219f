"""Where a denoiser can run, by name."""

from enum import StrEnum


class Runtime(StrEnum):
    """``--runtime``."""

    ORT = "ort"
    """ONNX Runtime on the ``ort`` target, its nodes run by the native library; where there is none,
    the same as ``ort-portable``."""
    ORT_PORTABLE = "ort-portable"
    """ONNX Runtime on the ``ort`` target, its nodes rewritten to the portable form at load."""
    ORT_FUNCTIONS = "ort-functions"
    """ONNX Runtime on the ``ort`` target's own function bodies: the slow oracle."""
    ONNX = "onnx"
    """ONNX Runtime on the ``onnx`` target, as it lies on disk."""
    TORCH = "torch"
    """Torch: packed layers on the GPU kernels where there is a GPU, else the integer reference."""
    TRT = "trt"
    """TensorRT, on the engine that ``mpq-build`` has made on this machine."""
    TRT_RTX = "trt-rtx"
    """TensorRT-RTX, on an engine that ``mpq-build`` has made on any."""


ENGINE_RUNTIMES = (Runtime.TRT, Runtime.TRT_RTX)
"""Which run an engine, by preference."""
