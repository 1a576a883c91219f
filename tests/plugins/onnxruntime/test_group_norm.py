"""The native group normalisation against float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lowering.models import X_TYPES, initializers
from numpy.typing import NDArray
from onnx import helper

from mpq_export.lowering.nodes import DOMAIN, model_from_graph
from mpq_export.lowering.norm_nodes import GROUP_NORM, GROUP_NORM_SILU

from .sessions import every_kernel, native_session

EPSILON = 1e-5
every_operator = pytest.mark.parametrize("operator", [GROUP_NORM, GROUP_NORM_SILU])


def norm_model(
    operator: str,
    channels: int,
    groups: int,
    rank: int,
    dtype: type = np.float32,
    epsilon: float = EPSILON,
    bias_channels: int | None = None,
) -> onnx.ModelProto:
    """``X -> Y`` through one normalisation called ``norm``, scale and bias drawn from one seed."""
    scale, bias = scale_and_bias(channels)
    node = helper.make_node(
        operator, ["X", "scale", "bias"], ["Y"], "norm", domain=DOMAIN, num_groups=groups,
        epsilon=epsilon,
    )  # fmt: skip
    kind, dims = X_TYPES[np.dtype(dtype)], [None] * rank
    graph = helper.make_graph(
        [node],
        "norm",
        [helper.make_tensor_value_info("X", kind, dims)],
        [helper.make_tensor_value_info("Y", kind, dims)],
        initializer=initializers({"scale": scale, "bias": bias[:bias_channels]}),
    )
    return model_from_graph(graph)


def scale_and_bias(channels: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((2, channels)).astype(np.float32)


def expected(operator: str, x: NDArray, groups: int) -> NDArray[np.float64]:
    """The definition, in float64."""
    scale, bias = scale_and_bias(x.shape[1]).astype(np.float64)[
        (slice(None), slice(None), *([None] * (x.ndim - 2)))
    ]
    grouped = x.astype(np.float64).reshape(x.shape[0], groups, -1)
    centred = grouped - grouped.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(grouped.var(axis=-1, keepdims=True) + EPSILON)
    y = normal.reshape(x.shape) * scale + bias
    return y if operator == GROUP_NORM else y / (1 + np.exp(-y))


@every_kernel
@every_operator
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 64, 9, 7), 32), ((1, 6, 33), 1), ((3, 8, 1, 1), 8), ((2, 96, 16, 16), 4), ((1, 4), 2)],
    ids=str,
)
def test_it_is_the_definition(kernels: str, operator: str, shape: tuple[int, ...], groups: int):
    x = np.random.default_rng(6).standard_normal(shape).astype(np.float32) * 3
    session = native_session(norm_model(operator, shape[1], groups, len(shape)), kernels)
    np.testing.assert_allclose(
        session.run(None, {"X": x})[0], expected(operator, x, groups), rtol=2e-5, atol=2e-6
    )


@every_kernel
@every_operator
def test_a_large_mean_costs_no_more_digits_than_float32_has(kernels: str, operator: str):
    x = np.random.default_rng(7).standard_normal((1, 8, 32, 32)).astype(np.float32) + 1000
    y = native_session(norm_model(operator, 8, 2, 4), kernels).run(None, {"X": x})[0]
    np.testing.assert_allclose(y, expected(operator, x, 2), atol=1e-3)


@every_kernel
def test_half_precision_is_rounded_once(kernels: str):
    x = np.random.default_rng(8).standard_normal((2, 8, 5, 5)).astype(np.float16)
    wide = native_session(norm_model(GROUP_NORM_SILU, 8, 2, 4), kernels)
    narrow = native_session(norm_model(GROUP_NORM_SILU, 8, 2, 4, np.float16), kernels)
    y = narrow.run(None, {"X": x})[0]
    assert y.dtype == np.float16
    exact = wide.run(None, {"X": x.astype(np.float32)})[0]
    np.testing.assert_array_equal(y, exact.astype(np.float16))


@every_kernel
def test_silu_of_every_size(kernels: str):
    """One group per value: each is normalised to its bias, which is as large as wanted."""
    values = np.concatenate(
        [np.linspace(-90, 90, 721), [1e4, -1e4, 3e38, -3e38, np.inf, -np.inf]]
    ).astype(np.float32)
    model = norm_model(GROUP_NORM_SILU, len(values), len(values), 4)
    for tensor in model.graph.initializer:
        if tensor.name == "bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "bias"))
    x = np.zeros((1, len(values), 1, 16), np.float32)
    y = native_session(model, kernels).run(None, {"X": x})[0]
    wide = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.where(wide == -np.inf, 0, wide / (1 + np.exp(-wide)))
    np.testing.assert_allclose(y[0, :, 0], exact[:, None].repeat(16, 1), rtol=1e-5, atol=1e-34)


@every_kernel
def test_not_a_number_is_passed_on(kernels: str):
    x = np.zeros((1, 4, 4, 4), np.float32)
    x[0, 0, 0, 0] = np.nan
    y = native_session(norm_model(GROUP_NORM_SILU, 4, 2, 4), kernels).run(None, {"X": x})[0]
    assert np.isnan(y[0, :2]).all()
    assert np.isfinite(y[0, 2:]).all()


@every_kernel
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 6, "groups": 4}, "6 channels do not divide into 4 groups"),
        ({"channels": 6, "groups": 0}, "6 channels do not divide into 0 groups"),
        ({"channels": 6, "groups": 2, "epsilon": -1.0}, "epsilon is negative"),
        ({"channels": 6, "groups": 2, "bias_channels": 5}, "scale and bias are not of one shape"),
    ],
    ids=["groups", "no groups", "epsilon", "bias"],
)
def test_a_node_that_makes_no_sense_is_refused_by_name(kernels: str, arguments, message: str):
    with pytest.raises(Exception, match=f"MPQGroupNorm node 'norm': {message}"):
        native_session(norm_model(GROUP_NORM, rank=4, **arguments), kernels)


@every_kernel
@pytest.mark.parametrize("shape", [(1, 5, 2, 2), (6,)], ids=str)
def test_inputs_of_other_channels_are_refused_by_name(kernels: str, shape: tuple[int, ...]):
    session = native_session(norm_model(GROUP_NORM, 6, 2, len(shape)), kernels)
    with pytest.raises(Exception, match=r"MPQGroupNorm node 'norm': X is \["):
        session.run(None, {"X": np.zeros(shape, np.float32)})


@every_kernel
def test_nothing_of_nothing(kernels: str):
    y = native_session(norm_model(GROUP_NORM, 6, 2, 4), kernels).run(
        None, {"X": np.zeros((0, 6, 2, 2), np.float32)}
    )[0]
    assert y.shape == (0, 6, 2, 2)
