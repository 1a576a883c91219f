"""The native attention against float64, and what it does with inputs that make no sense."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering.models import X_TYPES, run_in_onnxruntime
from numpy.typing import NDArray
from onnx import helper

from mpq_export.lowering.attention_nodes import ATTENTION_OPERATOR, make_attention
from mpq_export.lowering.nodes import model_from_graph

from .sessions import every_kernel, native_session

TOLERANCE = 4e-5
"""Of the largest output, where values do not cancel and scores are a few."""
ROUNDING = {"amx": 2.0**-17}
OTHERS_ROUNDING = 2.0**-21
"""Of what :func:`exactness` names; see docs/format.md."""
INPUTS = ("query", "key", "value")


def attention_model(
    heads: int, scale: float, dtype: type = np.float32, key_dtype: type | None = None
) -> onnx.ModelProto:
    """One node called ``attention``, of free shapes."""
    kind, key_kind = X_TYPES[np.dtype(dtype)], X_TYPES[np.dtype(key_dtype or dtype)]
    graph = helper.make_graph(
        [make_attention("attention", INPUTS, "Y", heads, scale)],
        "attention",
        [
            helper.make_tensor_value_info(name, key_kind if name == "key" else kind, None)
            for name in INPUTS
        ],
        [helper.make_tensor_value_info("Y", kind, None)],
    )
    return model_from_graph(graph)


def draw(
    shape: tuple[int, int, int, int, int], size: float = 1.0, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Inputs for batch, queries, keys, heads and the width of a head."""
    batch, queries, keys, heads, width = shape
    rng = np.random.default_rng(seed)
    lengths = zip(INPUTS, (queries, keys, keys), strict=True)
    return {
        name: (size * rng.standard_normal((batch, length, heads * width))).astype(np.float32)
        for name, length in lengths
    }


def weights_of(feeds: dict[str, NDArray], heads: int, scale: float) -> tuple[NDArray, NDArray]:
    """Scores and their softmax ``[B, H, S, T]``, in float64."""
    query, key = (by_head(feeds[name], heads) for name in ("query", "key"))
    scores = np.float32(scale).astype(np.float64) * query @ key.swapaxes(2, 3)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores, weights / weights.sum(axis=-1, keepdims=True)


def by_head(x: NDArray, heads: int) -> NDArray[np.float64]:
    return x.astype(np.float64).reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def expected(feeds: dict[str, NDArray], heads: int, scale: float) -> NDArray[np.float64]:
    """The definition, in float64."""
    y = weights_of(feeds, heads, scale)[1] @ by_head(feeds["value"], heads)
    return y.swapaxes(1, 2).reshape(feeds["query"].shape)


def exactness(feeds: dict[str, NDArray], heads: int, scale: float) -> float:
    """What rounding is a part of: a score is rounded in proportion to itself, which its weight
    feels; and the sum of weighted values may cancel, its rounding does not."""
    scores, weights = weights_of(feeds, heads, scale)
    largest = (weights @ np.abs(by_head(feeds["value"], heads))).max()
    return float((1 + np.abs(scores).max()) * largest)


def distance(y: NDArray, exact: NDArray[np.float64]) -> float:
    """The largest difference, as a part of the largest output."""
    assert y.shape == exact.shape
    return float(np.abs(y - exact).max() / np.abs(exact).max())


@every_kernel
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 3), st.integers(1, 150), st.integers(1, 300), st.integers(1, 5),
        st.integers(1, 200),
    ),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_it_is_the_definition(kernels: str, shape: tuple[int, int, int, int, int], seed: int):
    feeds, heads, scale = draw(shape, seed=seed), shape[3], shape[4] ** -0.5
    y = native_session(attention_model(heads, scale), kernels).run(None, feeds)[0]
    difference = np.abs(y - expected(feeds, heads, scale)).max()
    assert difference < ROUNDING.get(kernels, OTHERS_ROUNDING) * exactness(feeds, heads, scale)


@every_kernel
@pytest.mark.parametrize(
    "shape",
    [
        (1, 256, 256, 4, 8),
        (1, 1024, 77, 1, 40),
        (2, 64, 64, 2, 72),
        (1, 16, 77, 2, 160),
        (1, 1, 1, 3, 5),
        (1, 1, 400, 2, 16),
        (1, 400, 1, 2, 16),
        (1, 3, 3000, 1, 32),
    ],
    ids=str,
)
def test_the_shapes_of_models_and_extreme_ones(kernels: str, shape: tuple[int, int, int, int, int]):
    feeds, heads, scale = draw(shape), shape[3], shape[4] ** -0.5
    y = native_session(attention_model(heads, scale), kernels).run(None, feeds)[0]
    assert distance(y, expected(feeds, heads, scale)) < TOLERANCE


@every_kernel
@pytest.mark.parametrize("falls", [False, True])
def test_maxima_that_move_from_key_to_key(kernels: str, falls: bool):
    """Scores from -400 to 400 in order: each sum so far is scaled to the next maximum, or all later
    weights are nothing."""
    feeds = draw((1, 20, 500, 2, 8))
    steps = np.linspace(400, -400, 500) if falls else np.linspace(-400, 400, 500)
    feeds["key"] = np.broadcast_to(steps[None, :, None] / 8, (1, 500, 16)).astype(np.float32)
    feeds["query"] = np.ones((1, 20, 16), np.float32)
    y = native_session(attention_model(2, 1.0), kernels).run(None, feeds)[0]
    assert distance(y, expected(feeds, 2, 1.0)) < 400 * 2**-18


@every_kernel
def test_large_scores_are_as_exact_as_float32_makes_them(kernels: str):
    """Scores of some hundreds: 2^-16 of them is what weights may be off."""
    feeds = draw((1, 50, 200, 3, 24), size=6.0)
    y = native_session(attention_model(3, 24**-0.5), kernels).run(None, feeds)[0]
    assert distance(y, expected(feeds, 3, 24**-0.5)) < 200 * 2**-16


@every_kernel
@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize("name", INPUTS)
def test_numbers_of_every_size_keep_their_digits(kernels: str, name: str, size: float):
    """Of values; and of scores, where the other factor or the scale makes them usual ones."""
    feeds = draw((1, 40, 100, 2, 8))
    scale = 8**-0.5
    feeds[name] *= np.float32(size)
    if name != "value":
        scale = float(np.float32(scale / size))
    y = native_session(attention_model(2, scale), kernels).run(None, feeds)[0]
    assert distance(y, expected(feeds, 2, scale)) < TOLERANCE


@every_kernel
def test_equal_keys_give_the_mean_value(kernels: str):
    feeds = draw((2, 33, 90, 2, 20))
    feeds["key"][:] = feeds["key"][:, :1]
    y = native_session(attention_model(2, 3.0), kernels).run(None, feeds)[0]
    mean = feeds["value"].astype(np.float64).mean(axis=1, keepdims=True)
    assert distance(y, np.broadcast_to(mean, y.shape)) < TOLERANCE


@every_kernel
def test_half_precision_is_rounded_once(kernels: str):
    feeds = {name: x.astype(np.float16) for name, x in draw((2, 30, 41, 2, 24)).items()}
    y = native_session(attention_model(2, 0.2, np.float16), kernels).run(None, feeds)[0]
    assert y.dtype == np.float16
    wide = {name: x.astype(np.float32) for name, x in feeds.items()}
    exact = native_session(attention_model(2, 0.2), kernels).run(None, wide)[0]
    np.testing.assert_array_equal(y, exact.astype(np.float16))


@every_kernel
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_what_it_decides_and_nothing_else(kernels: str, bad: float):
    session = native_session(attention_model(2, 0.5), kernels)
    clean = draw((1, 40, 50, 2, 8))
    expected_y = session.run(None, clean)[0]
    reaches = {
        "query": (slice(3, 4), slice(0, 8)),
        "key": (slice(None), slice(0, 8)),
        "value": (slice(None), slice(0, 1)),
    }
    for name, (tokens, channels) in reaches.items():
        feeds = {key: x.copy() for key, x in clean.items()}
        feeds[name][0, 3, 0] = bad
        if name == "key":  # a score of plus infinity for every query
            feeds["query"][0, :, 0] = np.abs(feeds["query"][0, :, 0])
        wanted = session.run(None, feeds | {name: clean[name]})[0]
        y = session.run(None, feeds)[0]
        hit = np.zeros(y.shape, bool)
        hit[0, tokens, channels] = True
        assert not np.isfinite(y[hit]).any()
        np.testing.assert_array_equal(y[~hit], wanted[~hit])
    np.testing.assert_array_equal(session.run(None, clean)[0], expected_y)


@every_kernel
def test_nothing_of_nothing_and_zero_of_no_keys(kernels: str):
    session = native_session(attention_model(2, 0.5), kernels)
    for shape in ((0, 3, 4, 2, 5), (2, 0, 4, 2, 5)):
        assert session.run(None, draw(shape))[0].shape == (shape[0], shape[1], 10)
    np.testing.assert_array_equal(session.run(None, draw((1, 3, 0, 2, 5)))[0], np.zeros((1, 3, 10)))


@every_kernel
@pytest.mark.parametrize(
    "shape", [(2, 9, 13, 3, 5), (0, 3, 4, 2, 5), (2, 0, 4, 2, 5), (1, 3, 0, 2, 5)], ids=str
)
def test_the_body_computes_the_same(kernels: str, shape: tuple[int, int, int, int, int]):
    feeds, heads = draw(shape), shape[3]
    model = attention_model(heads, 0.4)
    y = native_session(model, kernels).run(None, feeds)[0]
    model.functions.append(ATTENTION_OPERATOR.function())
    body = run_in_onnxruntime(model, feeds)
    assert y.shape == body.shape
    np.testing.assert_allclose(y, body, rtol=0, atol=TOLERANCE)


@every_kernel
def test_threads_change_nothing(kernels: str):
    """Calls of different sizes at once, on one thread or several of the session's own."""
    one = native_session(attention_model(3, 0.4), kernels, threads=1)
    several = native_session(attention_model(3, 0.4), kernels, threads=3)
    drawn = [
        draw((1 + i % 2, 20 + 97 * (i % 4), 10 + 61 * (i % 5), 3, 3 + 17 * (i % 3)), seed=i)
        for i in range(12)
    ]
    wanted = [one.run(None, feeds)[0] for feeds in drawn]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda feeds: several.run(None, feeds)[0], drawn * 2))
    for y, exact in zip(found, wanted * 2, strict=True):
        np.testing.assert_array_equal(y, exact)


REFUSED = [
    ({"query": (2, 3)}, r"query is \[2, 3\], expected \[B, S, C\]"),
    ({"query": (1, 3, 7)}, "7 channels do not divide into 2 heads"),
    ({"key": (2, 4, 8)}, r"key is float32 \[2, 4, 8\], expected float32 \[1, T, 8\]"),
    ({"key": (1, 4, 6)}, r"key is float32 \[1, 4, 6\], expected float32 \[1, T, 8\]"),
    ({"key": (8,)}, r"key is float32 \[8\], expected float32 \[1, T, 8\]"),
    ({"value": (1, 5, 8)}, r"value is float32 \[1, 5, 8\], expected the key's float32 \[1, 4, 8\]"),
    ({"value": (1, 4, 16)}, r"value is float32 \[1, 4, 16\], expected the key's"),
]


@every_kernel
@pytest.mark.parametrize(("shapes", "why"), REFUSED)
def test_shapes_that_do_not_fit_are_refused_and_the_session_goes_on(kernels: str, shapes, why):
    session = native_session(attention_model(2, 0.5), kernels)
    good = draw((1, 3, 4, 2, 4))
    bad = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(Exception, match=f"MPQAttention node 'attention': .*{why}"):
        session.run(None, good | bad)
    assert np.isfinite(session.run(None, good)[0]).all()


@every_kernel
@pytest.mark.parametrize(
    ("heads", "scale", "why"),
    [(0, 0.5, "num_heads is 0"), (-2, 0.5, "num_heads is -2"), (2, np.nan, "scale is not finite")],
)
def test_a_node_that_makes_no_sense_is_refused_by_name(kernels: str, heads, scale, why: str):
    with pytest.raises(Exception, match=f"MPQAttention node 'attention': {why}"):
        native_session(attention_model(heads, scale), kernels)


@every_kernel
def test_types_that_differ_are_refused_by_name(kernels: str):
    feeds = draw((1, 3, 4, 2, 4))
    feeds["key"] = feeds["key"].astype(np.float16)
    with pytest.raises(Exception, match=r"key is float16|Type"):
        native_session(attention_model(2, 0.5, key_dtype=np.float16), kernels).run(None, feeds)
