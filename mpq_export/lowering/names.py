"""What a bundle can be lowered to, by name."""

from enum import StrEnum


class Target(StrEnum):
    """``--target``."""

    ORT = "ort"
    """Packed MPQ nodes with function bodies, for ONNX Runtime."""
    ONNX = "onnx"
    """Standard operators only, for any ONNX runtime."""
    TRT = "trt"
    """Packed nodes in kernel layout, for TensorRT with our plugin."""
    TRT_INT8 = "trt-int8"
    """Symmetric INT8 quantise and dequantise operators, for TensorRT without a plugin."""


ENGINE_TARGETS = (Target.TRT, Target.TRT_INT8)
"""Of which TensorRT builds an engine before they run."""
