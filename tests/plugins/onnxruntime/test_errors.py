"""What the operators refuse, with the node's name; nothing crashes, and the session goes on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from golden.reader import layer_case
from lowering.models import case_feeds, case_model, packed_model
from onnx import TensorProto, helper, numpy_helper

from mpq_export.runtimes.native_library import KERNELS_VARIABLE

from .sessions import kernels_here, native_session

KERNELS = kernels_here()[0]
LINEAR, CONV = "linear_mixed_planes", "conv_asymmetric_pads"


def attribute(name: str, value) -> Callable[[onnx.ModelProto], None]:
    """Set an attribute of the node; None takes it away."""

    def edit(model: onnx.ModelProto) -> None:
        node = model.graph.node[0]
        (old,) = [a for a in node.attribute if a.name == name]
        node.attribute.remove(old)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))

    return edit


def tensor(name: str, change: Callable[[np.ndarray], np.ndarray]):
    """Replace an initializer by what ``change`` makes of it."""

    def edit(model: onnx.ModelProto) -> None:
        (old,) = [t for t in model.graph.initializer if t.name == f"layer.{name}"]
        value = change(numpy_helper.to_array(old).copy())
        old.CopyFrom(numpy_helper.from_array(value, old.name))

    return edit


def not_constant(name: str):
    """Make an initializer an input of the graph."""

    def edit(model: onnx.ModelProto) -> None:
        (old,) = [t for t in model.graph.initializer if t.name == f"layer.{name}"]
        model.graph.initializer.remove(old)
        model.graph.input.append(
            helper.make_tensor_value_info(old.name, old.data_type, list(old.dims))
        )

    return edit


def put(index, value):
    """An array with one element changed."""

    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


REFUSED_AT_LOAD = [
    (LINEAR, attribute("layout", "tiled"), "'tiled'"),
    (LINEAR, attribute("layout", None), "layout"),
    (LINEAR, attribute("plugin_version", "2"), "newer library"),
    (LINEAR, attribute("K", 1 << 40), "columns"),
    (LINEAR, attribute("K", -1), "columns"),
    (LINEAR, attribute("K", None), "attribute K"),
    (LINEAR, attribute("K", "64"), "attribute K"),
    (LINEAR, attribute("act_bits", 9), "activation bits"),
    (LINEAR, attribute("plane_rows", [1 << 60] * 4), "plane"),
    (LINEAR, attribute("plane_rows", [0]), "steps is"),
    (LINEAR, attribute("plane_rows", [1] * 9), "planes"),
    (LINEAR, tensor("planes", lambda a: a[:-1]), "planes is"),
    (LINEAR, tensor("planes", lambda a: np.full_like(a, -1)), "padding bit"),
    (LINEAR, tensor("steps", lambda a: a[:, :-1]), "steps is"),
    (LINEAR, tensor("steps", put((1, 0), -1)), "step"),
    (LINEAR, tensor("scale", put(0, np.nan)), "scale"),
    (LINEAR, tensor("row_order", put(0, 1 << 30)), "row_order"),
    (LINEAR, tensor("row_order", lambda a: np.zeros_like(a)), "row_order"),
    (LINEAR, tensor("bias", put(0, np.inf)), "bias"),
    (LINEAR, tensor("act_scale", lambda a: a[:0]), "act"),
    (LINEAR, tensor("act_zero_point", put(0, -1)), "zero point"),
    (LINEAR, tensor("input_factor", lambda a: a[:-1]), "input_factor"),
    (LINEAR, tensor("input_shift", put(0, 100)), "shift"),
    *((LINEAR, not_constant(name), f"{name} is no constant") for name in ("planes", "act_scale")),
    (CONV, attribute("kernel_shape", [3]), "kernel_shape has 1 values, expected 2"),
    (CONV, attribute("pads", [0, 0, 0]), "pads has 3 values, expected 4"),
    (CONV, attribute("strides", [0, 1]), "strides"),
    (CONV, attribute("dilations", [1, 1 << 40]), "dilations"),
    (CONV, attribute("pads", [-1, 0, 0, 0]), "pads"),
    (CONV, attribute("group", 0), "group"),
    (CONV, attribute("group", 1 << 62), "groups"),
    (CONV, attribute("kernel_shape", [4096, 4096]), "taps"),
]


@pytest.mark.parametrize(("name", "edit", "why"), REFUSED_AT_LOAD)
def test_a_malformed_node_is_refused_at_load(name, edit, why):
    model = case_model(layer_case(name))
    edit(model)
    with pytest.raises(Exception, match="node 'layer': ") as raised:
        native_session(model, KERNELS)
    assert why in str(raised.value)
    assert ("MPQConv" if name == CONV else "MPQLinear") in str(raised.value)


REFUSED_AT_RUN = [
    (LINEAR, {"X": np.zeros((2, 3), np.float32)}, r"X is \[2, 3\], expected \[..., \d+\]"),
    (LINEAR, {"X": np.zeros((), np.float32)}, r"X is \[\], expected"),
    (CONV, {"X": np.zeros((1, 1, 4, 4), np.float32)}, r"expected \[N, \d+, H, W\]"),
    (CONV, {"X": np.zeros((1, 4), np.float32)}, r"expected \[N, \d+, H, W\]"),
    *(
        (LINEAR, {"step_index": np.array([step], np.int32)}, f"step_index is {step}")
        for step in (-1, 3, 2**31 - 1, -(2**31))
    ),
    (LINEAR, {"step_index": np.zeros(2, np.int32)}, r"step_index is int32 \[2\]"),
    (LINEAR, {"step_index": np.zeros((1, 1), np.int32)}, r"step_index is int32 \[1, 1\]"),
]


@pytest.mark.parametrize(("name", "feeds", "why"), REFUSED_AT_RUN)
def test_wrong_inputs_are_refused_and_the_session_goes_on(name, feeds, why):
    case = layer_case(name)
    model = packed_model(case.layer, None)
    del model.graph.input[1].type.tensor_type.shape.dim[:]
    model.graph.input[1].type.tensor_type.ClearField("shape")
    session = native_session(model, KERNELS)
    with pytest.raises(Exception, match=f"node 'layer': .*{why}"):
        session.run(None, case_feeds(case) | feeds)
    np.testing.assert_array_equal(session.run(None, case_feeds(case))[0], case.y)


def test_images_smaller_than_the_kernel_are_refused():
    case = layer_case("conv_no_padding")
    session = native_session(packed_model(case.layer, None), KERNELS)
    x = np.zeros((1, case.x.shape[1], 1, 1), np.float32)
    with pytest.raises(Exception, match="MPQConv node 'layer': "):
        session.run(None, case_feeds(case) | {"X": x})


def test_other_types_of_x_are_refused():
    case = layer_case(LINEAR)
    model = packed_model(case.layer, None, TensorProto.DOUBLE)
    with pytest.raises(Exception, match=r"double.* \(X\) .*MPQLinear.* node \(layer\)"):
        native_session(model, KERNELS)


@pytest.mark.parametrize("name", [LINEAR, CONV])
def test_a_residual_of_another_type_than_x_is_refused(name):
    model = packed_model(layer_case(name).layer, None, residual_dims=None)
    model.graph.input[2].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(Exception, match=r"Node \(layer\) Op \(MPQ"):
        native_session(model, KERNELS)


RESIDUALS = [
    (LINEAR, lambda y: (*y[:-1], y[-1] + 1)),
    (LINEAR, lambda y: (y[0] + 1, *y[1:])),
    (LINEAR, lambda y: (1, *y)),
    (LINEAR, lambda y: y[1:]),
    (LINEAR, lambda y: (1,) * len(y)),
    (LINEAR, lambda y: ()),
    (CONV, lambda y: (y[0], y[1], y[2], 1)),
    (CONV, lambda y: (y[0], y[1], 1, y[3])),
    (CONV, lambda y: (y[0], 1, 1, 1)),
    (CONV, lambda y: (y[0], y[1] + 1, 1, 1)),
    (CONV, lambda y: (y[0] + 1, y[1], 1, 1)),
    (CONV, lambda y: (y[0] + 1, *y[1:])),
    (CONV, lambda y: (*y[:3], y[3] - 1)),
    (CONV, lambda y: y[1:]),
    (CONV, lambda y: (*y, 1)),
    (CONV, lambda y: (0, y[1], 1, 1)),
]


@pytest.mark.parametrize(("name", "shape_of"), RESIDUALS)
def test_a_residual_of_another_shape_is_refused_and_the_session_goes_on(name, shape_of):
    case = layer_case(name)
    session = native_session(packed_model(case.layer, None, residual_dims=None), KERNELS)
    wrong = np.zeros(shape_of(case.y.shape), np.float32)
    with pytest.raises(Exception, match=r"node 'layer': residual is \[.*\], expected \["):
        session.run(None, case_feeds(case) | {"residual": wrong})
    right = {"residual": np.zeros_like(case.y)}
    np.testing.assert_array_equal(session.run(None, case_feeds(case) | right)[0], case.y)


def test_unknown_kernels_are_refused_with_those_there_are():
    with pytest.raises(Exception, match=f"{KERNELS_VARIABLE}.*sse9.*portable"):
        native_session(case_model(layer_case(LINEAR)), "sse9")
