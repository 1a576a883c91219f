"""ONNX Runtime's own static int8: QDQ, weights per channel."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from .graph_files import CONFIG, MODEL, MODULES
from .inputs import Inputs

_LARGE_BYTES = 1 << 30
_PRODUCTS = ["Conv", "MatMul", "Gemm"]
"""What is quantised. With all that ONNX Runtime could quantise in addition (sums, softmax,
normalisations) the digits model is no faster, and conversions lie around every node."""


class _Draws(CalibrationDataReader):
    def __init__(self, draws: Sequence[Inputs]) -> None:
        self._draws = iter(draws)

    def get_next(self) -> Inputs | None:
        """One batch after another, then None."""
        return next(self._draws, None)


def make(source: Path, folder: Path, draws: Sequence[Inputs]) -> None:
    """Quantise the fp32 graph as ONNX Runtime's documentation advises for x86.

    Activation ranges are the extremes over ``draws``, the inputs of whole denoising steps.
    """
    large = sum(file.stat().st_size for file in source.iterdir()) > _LARGE_BYTES
    prepared = folder / "prepared.onnx"
    quant_pre_process(
        source / MODEL, prepared, skip_symbolic_shape=True, save_as_external_data=large
    )
    quantize_static(
        prepared,
        folder / MODEL,
        _Draws(draws),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=_PRODUCTS,
        use_external_data_format=large,
    )
    for file in folder.glob("prepared.onnx*"):
        file.unlink()
    for name in (CONFIG, MODULES):
        shutil.copy(source / name, folder)
