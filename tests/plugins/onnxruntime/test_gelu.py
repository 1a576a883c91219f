"""The native GELU and the linear unit that it gates, against float64."""

from __future__ import annotations

from math import erfc, pi, sqrt

import numpy as np
import onnx
import pytest
from lowering.models import X_TYPES, run_in_onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mpq_export.lowering.gelu_nodes import GEGLU, GELU, GELU_OPERATORS, make_gelu
from mpq_export.lowering.nodes import model_from_graph

from .sessions import every_kernel, native_session

every_form = pytest.mark.parametrize("form", ["none", "tanh"])
RELATIVE = {"none": 6e-7, "tanh": 2e-5}
"""Of y, in both tails too: what is tanh's is that of its argument, rounded to float32."""
NOTHING = 1e-36
"""Below this, results may be 0."""
NEAR = {"none": 6e-7, "tanh": 6e-7}
"""Of y where x is above -1: a few units in the last place."""


def gelu_model(
    operator: str, form: str, rank: int, x_type: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """``X -> Y`` through one node called ``gelu``."""
    dims = [None] * rank
    graph = helper.make_graph(
        [make_gelu(operator, "gelu", "X", "Y", form)],
        "gelu",
        [helper.make_tensor_value_info("X", x_type, dims)],
        [helper.make_tensor_value_info("Y", x_type, dims)],
    )
    return model_from_graph(graph)


def native(operator: str, form: str, kernels: str, x: NDArray, threads: int = 2) -> NDArray:
    model = gelu_model(operator, form, x.ndim, X_TYPES[x.dtype])
    return native_session(model, kernels, threads).run(None, {"X": x})[0]


def expected(form: str, x: NDArray) -> NDArray[np.float64]:
    """The definition, in float64 and without cancellation."""
    wide = x.astype(np.float64)
    if form == "none":
        return wide / 2 * np.vectorize(erfc)(-wide / sqrt(2))
    with np.errstate(over="ignore"):
        return wide / (1 + np.exp(-2 * sqrt(2 / pi) * (wide + 0.044715 * wide**3)))


@every_kernel
@every_form
def test_every_digit_counts_in_the_tails_too(kernels: str, form: str):
    small = np.geomspace(1e-37, 1, 500)
    x = np.concatenate([np.linspace(-20, 20, 40001), small, -small]).astype(np.float32)
    y, exact = native(GELU, form, kernels, x), expected(form, x)
    np.testing.assert_allclose(y, exact, rtol=RELATIVE[form], atol=NOTHING)
    near = x > -1
    np.testing.assert_allclose(y[near], exact[near], rtol=NEAR[form], atol=NOTHING)


@every_kernel
@every_form
@pytest.mark.parametrize(
    "shape", [(2,), (1, 6), (3, 2, 34), (2, 5, 128), (2, 300, 512), (1, 2, 80000)], ids=str
)
def test_the_second_half_gates_the_first(kernels: str, form: str, shape: tuple[int, ...]):
    """Also across pieces of work, and with widths that fill no register."""
    x = 3 * np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    factor, gate = np.split(x, 2, axis=-1)
    y = native(GEGLU, form, kernels, x)
    assert y.shape == factor.shape
    # Every element is the plain operator's, times one more rounding.
    gelu = native(GELU, form, kernels, np.ascontiguousarray(gate))
    np.testing.assert_array_equal(y, factor * gelu)
    sample = slice(None, None, 7)
    exact = factor.reshape(-1)[sample] * expected(form, gate.reshape(-1)[sample])
    np.testing.assert_allclose(y.reshape(-1)[sample], exact, rtol=RELATIVE[form], atol=NOTHING)


@every_kernel
@every_form
@pytest.mark.parametrize("operator", [GELU, GEGLU])
def test_the_body_computes_the_same(kernels: str, form: str, operator: str):
    """ONNX Runtime's own GELU cancels below 0: its error is one of x there, not of y."""
    x = 3 * np.random.default_rng(3).standard_normal((2, 9, 40)).astype(np.float32)
    model = gelu_model(operator, form, 3)
    model.functions.extend(operator.function() for operator in GELU_OPERATORS)
    body = run_in_onnxruntime(model, {"X": x})
    np.testing.assert_allclose(
        native(operator, form, kernels, x), body, rtol=1e-6, atol=2e-6 * np.abs(x).max()
    )


@every_kernel
@every_form
def test_values_of_every_size(kernels: str, form: str):
    x = np.array([np.inf, 3e38, 1e20, -1e20, -3e38, -np.inf, 0, np.nan], np.float32)
    y = native(GELU, form, kernels, np.tile(x, 5))
    of_limits = np.array([np.inf, 3e38, 1e20, 0, 0, 0, 0, np.nan], np.float32)
    np.testing.assert_array_equal(y, np.tile(of_limits, 5))


@every_kernel
@every_form
@pytest.mark.parametrize("place", [0, 37])
def test_not_a_number_stays_where_it_is(kernels: str, form: str, place: int):
    for half in (0, 1):
        x = np.ones((1, 2, 40), np.float32)
        x[0, half, place] = np.nan
        y = native(GEGLU, form, kernels, x.reshape(1, 80))[0]
        assert np.isnan(y[place])
        assert np.isfinite(np.delete(y, place)).all()


@every_kernel
@every_form
@pytest.mark.parametrize("operator", [GELU, GEGLU])
def test_half_precision_is_rounded_once(kernels: str, form: str, operator: str):
    x = (4 * np.random.default_rng(4).standard_normal((2, 7, 46))).astype(np.float16)
    y = native(operator, form, kernels, x)
    assert y.dtype == np.float16
    exact = native(operator, form, kernels, x.astype(np.float32))
    np.testing.assert_array_equal(y, exact.astype(np.float16))


@every_kernel
@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("operator", [GELU, GEGLU])
def test_nothing_of_nothing(kernels: str, operator: str, shape: tuple[int, ...]):
    y = native(operator, "none", kernels, np.zeros(shape, np.float32))
    halved = (*shape[:-1], shape[-1] // 2)
    assert y.shape == (halved if operator == GEGLU else shape)


@every_kernel
def test_a_number_is_a_shape_for_one_and_not_for_the_other(kernels: str):
    x = np.array(1, np.float32)
    assert native(GELU, "none", kernels, x) == pytest.approx(0.8413447)
    with pytest.raises(Exception, match=r"MPQGeglu node 'gelu': X is \[\], expected"):
        native(GEGLU, "none", kernels, x)


@every_kernel
@pytest.mark.parametrize("shape", [(1,), (2, 4, 7)], ids=str)
def test_rows_without_a_middle_are_refused_by_name(kernels: str, shape: tuple[int, ...]):
    session = native_session(gelu_model(GEGLU, "none", len(shape)), kernels)
    with pytest.raises(Exception, match=r"MPQGeglu node 'gelu': X is \[.*an even number"):
        session.run(None, {"X": np.zeros(shape, np.float32)})
    even = np.zeros((*shape[:-1], 8), np.float32)
    assert session.run(None, {"X": even})[0].shape == (*shape[:-1], 4)


@every_kernel
@pytest.mark.parametrize("operator", [GELU, GEGLU])
def test_nodes_and_types_that_it_does_not_know_are_refused_by_name(kernels: str, operator: str):
    with pytest.raises(Exception, match=f"{operator} node 'gelu': .*'sigmoid', expected 'none'"):
        native_session(gelu_model(operator, "sigmoid", 1), kernels)
    without = gelu_model(operator, "none", 1)
    del without.graph.node[0].attribute[:]
    with pytest.raises(Exception, match=f"{operator} node 'gelu': attribute approximate"):
        native_session(without, kernels)
    session = native_session(gelu_model(operator, "none", 1, TensorProto.DOUBLE), kernels)
    with pytest.raises(Exception, match=f"{operator} node 'gelu': X is of ONNX type 11"):
        session.run(None, {"X": np.zeros(2)})
