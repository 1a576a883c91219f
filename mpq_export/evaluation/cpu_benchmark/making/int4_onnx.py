"""ONNX Runtime's weight-only 4 bits: ``MatMulNBits`` for every product with constant weights."""

import shutil
from pathlib import Path

import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from ...baselines.graph_files import CONFIG, MODEL

_BLOCK = 32
_INT8_ACTIVATIONS = 4
"""``accuracy_level``: the fastest that ONNX Runtime offers."""


def make(source: Path, folder: Path) -> None:
    """Quantise the fp32 graph; convolutions have no 4-bit form there."""
    quantizer = MatMulNBitsQuantizer(
        onnx.load(source / MODEL),
        block_size=_BLOCK,
        is_symmetric=True,
        accuracy_level=_INT8_ACTIVATIONS,
    )
    quantizer.process()
    nodes = quantizer.model.model.graph.node
    if not any(node.op_type == "MatMulNBits" for node in nodes):
        raise SystemExit("MatMulNBits does not apply: no MatMul has constant weights of its shape")
    large = any(file.name != MODEL and file.suffix == ".data" for file in source.iterdir())
    quantizer.model.save_model_to_file(str(folder / MODEL), large)
    shutil.copy(source / CONFIG, folder)
