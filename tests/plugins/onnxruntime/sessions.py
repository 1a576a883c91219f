"""Sessions with the native library, one per set of kernels."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime
import pytest
from lowering.models import X_TYPES, packed_model
from numpy.typing import NDArray

from mpq_export.core.integer_reference import PackedLayer
from mpq_export.errors import RuntimeUnavailable
from mpq_export.runtimes.native_library import KERNELS_VARIABLE, kernel_names, native_library


def kernels_here() -> tuple[str, ...]:
    """The kernels to test; one name that says so where the library is not there."""
    try:
        return kernel_names()
    except RuntimeUnavailable:
        return ("none",)


every_kernel = pytest.mark.parametrize("kernels", kernels_here())


def require_library() -> None:
    """Fail in continuous integration, skip elsewhere, where the library is not there."""
    try:
        native_library()
    except RuntimeUnavailable as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))


def native_session(
    model: onnx.ModelProto, kernels: str, threads: int = 2
) -> onnxruntime.InferenceSession:
    """A session whose packed nodes run these kernels."""
    require_library()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(native_library()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KERNELS_VARIABLE, kernels)
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def run_layer_natively(
    layer: PackedLayer,
    x: NDArray[np.floating],
    step_index: int,
    kernels: str,
    threads: int = 2,
    residual: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """The output of one layer, in a session of its own."""
    feeds = {"X": x, "step_index": np.array([step_index], np.int32)}
    added = () if residual is None else [None] * residual.ndim
    model = packed_model(layer, [None] * x.ndim, X_TYPES[x.dtype], residual_dims=added)
    if residual is not None:
        feeds["residual"] = residual
    return native_session(model, kernels, threads).run(None, feeds)[0]


def same_bits(first: NDArray[np.floating], second: NDArray[np.floating]) -> bool:
    """Equal in type, shape and every bit, except that every NaN is the same."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    bits = np.dtype(f"u{first.dtype.itemsize}")
    nan = np.isnan(first) & np.isnan(second)
    return bool(np.all((first.view(bits) == second.view(bits)) | nan))
