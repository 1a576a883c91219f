"""The native adaptive layer normalisation against float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lowering.models import X_TYPES, run_in_onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mpq_export.lowering.layer_norm_nodes import ADA_LAYER_NORM_OPERATOR, make_ada_layer_norm
from mpq_export.lowering.nodes import model_from_graph

from .sessions import every_kernel, native_session

EPSILON = 1e-5


def norm_model(x_type: int = TensorProto.FLOAT, epsilon: float = EPSILON) -> onnx.ModelProto:
    """``X, scale, shift -> Y`` through one node called ``norm``."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [make_ada_layer_norm("norm", ("X", "scale", "shift"), "Y", epsilon)],
        "norm",
        [
            value("X", x_type, None),
            *(value(n, TensorProto.FLOAT, None) for n in ("scale", "shift")),
        ],
        [value("Y", x_type, None)],
    )
    return model_from_graph(graph)


def feeds(x: NDArray, rows: int | None = None) -> dict[str, NDArray]:
    rng = np.random.default_rng(5)
    shape = (x.shape[0] if rows is None else rows, 1, x.shape[-1])
    scale, shift = rng.standard_normal((2, *shape)).astype(np.float32)
    return {"X": x, "scale": scale, "shift": shift}


def native(inputs: dict[str, NDArray], kernels: str) -> NDArray:
    model = norm_model(X_TYPES[inputs["X"].dtype])
    return native_session(model, kernels).run(None, inputs)[0]


def expected(inputs: dict[str, NDArray]) -> NDArray[np.float64]:
    """The definition, in float64."""
    x, scale, shift = (inputs[name].astype(np.float64) for name in ("X", "scale", "shift"))
    centred = x - x.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(x.var(axis=-1, keepdims=True) + EPSILON)
    return normal * scale + shift


def draw(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(6).standard_normal(shape).astype(np.float32) * 3


@every_kernel
@pytest.mark.parametrize("rows", [1, None])
@pytest.mark.parametrize(
    "shape", [(2, 9, 64), (3, 5, 33), (1, 1, 1), (2, 7, 3), (2, 70, 1152)], ids=str
)
def test_it_is_the_definition(kernels: str, shape: tuple[int, ...], rows: int | None):
    inputs = feeds(draw(*shape), rows)
    np.testing.assert_allclose(native(inputs, kernels), expected(inputs), rtol=2e-5, atol=4e-6)


@every_kernel
def test_the_body_computes_the_same(kernels: str):
    inputs = feeds(draw(2, 6, 40))
    model = norm_model()
    model.functions.append(ADA_LAYER_NORM_OPERATOR.function())
    body = run_in_onnxruntime(model, inputs)
    np.testing.assert_allclose(native(inputs, kernels), body, rtol=1e-5, atol=4e-6)


@every_kernel
def test_a_large_mean_costs_no_more_digits_than_float32_has(kernels: str):
    inputs = feeds(draw(1, 4, 500) + 1000)
    np.testing.assert_allclose(native(inputs, kernels), expected(inputs), atol=1e-3)


@every_kernel
def test_half_precision_is_rounded_once(kernels: str):
    x = draw(2, 5, 24).astype(np.float16)
    inputs = feeds(x)
    y = native(inputs, kernels)
    assert y.dtype == np.float16
    exact = native(inputs | {"X": x.astype(np.float32)}, kernels)
    np.testing.assert_array_equal(y, exact.astype(np.float16))


@every_kernel
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_spoils_its_token_alone(kernels: str, value: float):
    x = draw(2, 3, 40)
    x[1, 0, 39] = value
    y = native(feeds(x), kernels)
    assert np.isnan(y[1, 0]).any()
    y[1, 0] = 0
    assert np.isfinite(y).all()


@every_kernel
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_nothing_of_nothing(kernels: str, shape: tuple[int, ...]):
    assert native(feeds(np.zeros(shape, np.float32)), kernels).shape == shape


@every_kernel
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": (2, 4)}, r"X is \[2, 4\], expected \[N, T, C\]"),
        ({"X": (2, 3, 5)}, r"input scale is \[2, 1, 4\] and X \[2, 3, 5\]"),
        ({"X": (3, 3, 4)}, r"input scale is \[2, 1, 4\] and X \[3, 3, 4\]"),
        ({"shift": (2, 3, 4)}, r"input shift is \[2, 3, 4\] and X"),
        ({"shift": (2, 4)}, r"input shift is \[2, 4\] and X"),
    ],
    ids=["rank", "channels", "batch", "a shift for every token", "rank of the shift"],
)
def test_other_shapes_are_refused_by_name(kernels: str, changes, message: str):
    session = native_session(norm_model(), kernels)
    inputs = feeds(draw(2, 3, 4))
    others = {name: np.zeros(shape, np.float32) for name, shape in changes.items()}
    with pytest.raises(Exception, match=f"MPQAdaLayerNorm node 'norm': {message}"):
        session.run(None, inputs | others)
    assert session.run(None, inputs)[0].shape == (2, 3, 4)


@every_kernel
@pytest.mark.parametrize("epsilon", [-1.0, np.inf, np.nan])
def test_an_epsilon_that_makes_no_sense_is_refused_by_name(kernels: str, epsilon: float):
    with pytest.raises(Exception, match="MPQAdaLayerNorm node 'norm': epsilon is negative"):
        native_session(norm_model(epsilon=epsilon), kernels)


@every_kernel
def test_other_types_of_x_are_refused(kernels: str):
    session = native_session(norm_model(TensorProto.DOUBLE), kernels)
    inputs = feeds(draw(2, 3, 4))
    with pytest.raises(Exception, match="MPQAdaLayerNorm node 'norm': X is of ONNX type 11"):
        session.run(None, inputs | {"X": inputs["X"].astype(np.float64)})
