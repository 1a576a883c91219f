"""The operators' schemas, shapes, and the way from a packed layer to a node and back."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import onnx
import pytest
from golden.reader import LayerCase, layer_case, layer_cases
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference

from mpq_export.core.integer_reference import PackedLayer, check_layer
from mpq_export.core.planes import ContractError, PackedMatrix
from mpq_export.lowering.nodes import (
    CONV,
    DOMAIN,
    INPUTS,
    IR_VERSION,
    LINEAR,
    OPSET,
    RESIDUAL,
    VERSION,
    is_mpq,
    make_node,
    model_from_graph,
    read_layer,
    register_schemas,
    residual_of,
    with_residual,
)
from mpq_export.lowering.operators import require_allowed

from .models import Dims, case_model, packed_model, with_bodies

COMMON = {"act_bits", "plane_rows", "K", "layout", "plugin_version", "plugin_namespace"}
GEOMETRY = {"kernel_shape", "strides", "pads", "dilations", "group"}


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def same_layer(a: PackedLayer, b: PackedLayer) -> None:
    """Assert that two layers agree in every value and type."""
    for field in fields(PackedLayer):
        first, second = getattr(a, field.name), getattr(b, field.name)
        if field.name == "weight":
            for name in (f.name for f in fields(PackedMatrix)):
                np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)
                assert (
                    np.asarray(getattr(first, name)).dtype
                    == np.asarray(getattr(second, name)).dtype
                )
        elif isinstance(first, np.ndarray):
            np.testing.assert_array_equal(first, second, field.name)
            assert first.dtype == second.dtype
        else:
            assert first == second


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_a_node_reads_back_as_its_layer(case: LayerCase):
    model = onnx.load_model_from_string(case_model(case).SerializeToString())
    layer = read_layer(model.graph.node[0], initializers(model))
    check_layer(layer)
    same_layer(layer, case.layer)


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_the_checker_passes(case: LayerCase):
    checker.check_model(case_model(case), full_check=True)
    checker.check_model(with_bodies(case_model(case)), full_check=True)


@pytest.mark.parametrize(
    ("name", "op_type", "attributes"),
    [("linear_p3_a4", LINEAR, COMMON), ("conv_groups", CONV, COMMON | GEOMETRY)],
)
def test_a_node_is_what_the_contract_says(name, op_type, attributes):
    model = case_model(layer_case(name))
    node = model.graph.node[0]
    assert (node.domain, node.op_type, node.name) == ("mpq", op_type, "layer")
    assert is_mpq(node)
    assert {attribute.name for attribute in node.attribute} == attributes
    assert not any(a.type == onnx.AttributeProto.TENSOR for a in node.attribute)
    value = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert (value["layout"], value["plugin_version"]) == (b"canonical", b"1")
    assert value["plugin_namespace"] == b""
    assert len(node.input) == len(INPUTS) == 11
    assert all(node.input)
    assert node.input[2:] == [f"layer.{name}" for name in INPUTS[2:]]
    assert {t.name for t in model.graph.initializer} == set(node.input[2:])
    assert {t.data_type for t in model.graph.initializer} == {
        TensorProto.FLOAT,
        TensorProto.INT32,
        TensorProto.INT8,
    }


def test_the_model_states_its_versions():
    model = case_model(layer_case("linear_p3_a4"))
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 21, "mpq": 1}
    assert (OPSET, VERSION, DOMAIN) == (21, 1, "mpq")
    assert model.ir_version == IR_VERSION
    plain = model_from_graph(model.graph, with_mpq=False)
    assert [entry.domain for entry in plain.opset_import] == [""]


def test_other_nodes_are_not_ours():
    assert not is_mpq(helper.make_node("MatMul", ["a", "b"], ["c"]))
    assert not is_mpq(helper.make_node(LINEAR, ["a"], ["c"], domain="other"))
    assert not is_mpq(helper.make_node("MPQPool", ["a"], ["c"], domain=DOMAIN))


def test_a_residual_is_the_last_input_and_an_overload():
    node, tensors = make_node("layer", layer_case("conv_groups").layer, "X", "step_index", "Y")
    added = with_residual(node, "shortcut", "sum")
    assert (list(added.input), list(added.output)) == ([*node.input, "shortcut"], ["sum"])
    assert (residual_of(node), residual_of(added)) == (None, "shortcut")
    assert (node.overload, added.overload) == ("", RESIDUAL)
    same_layer(read_layer(added, tensors), read_layer(node, tensors))


@pytest.mark.parametrize("dims", [[None] * 4, [1, None, 1, 1]])
def test_a_residual_leaves_the_shape_as_it_is(dims):
    case = layer_case("conv_groups")
    shapes = case.x.shape, TensorProto.FLOAT, case.y.shape
    model = packed_model(case.layer, *shapes, residual_dims=dims)
    checker.check_model(model, full_check=True)
    assert inferred(model) == (TensorProto.FLOAT, list(case.expected.output.shape))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda node: node.input.append("another"),
        lambda node: node.input.pop(),
        lambda node: node.output.append("another"),
        lambda node: node.ClearField("overload"),
        lambda node: node.input.__setitem__(-1, ""),
        lambda node: node.input.__setitem__(4, ""),
        lambda node: setattr(node, "overload", "another"),
    ],
    ids=["one more", "one less", "output", "no overload", "none", "no planes", "overload"],
)
def test_other_inputs_than_the_schemas_are_refused(spoil):
    node, tensors = make_node("layer", layer_case("conv_groups").layer, "X", "step_index", "Y")
    node = with_residual(node, "shortcut", "sum")
    spoil(node)
    for read in (residual_of, require_allowed, lambda node: read_layer(node, tensors)):
        with pytest.raises(ContractError, match="node layer"):
            read(node)


def test_another_layout_is_refused():
    case = layer_case("linear_p3_a4")
    node, tensors = make_node("layer", case.layer, "X", "step_index", "Y")
    next(a for a in node.attribute if a.name == "layout").s = b"trt.1"
    with pytest.raises(ValueError, match=r"trt\.1"):
        read_layer(node, tensors)


def test_schemas_can_be_registered_again():
    register_schemas()
    register_schemas()
    assert onnx.defs.get_schema(LINEAR, VERSION, DOMAIN).inputs[4].name == "planes"
    assert onnx.defs.get_schema(CONV, VERSION, DOMAIN).outputs[0].name == "Y"


@pytest.mark.parametrize("missing", sorted(COMMON | GEOMETRY))
def test_every_attribute_is_required(missing):
    model = case_model(layer_case("conv_groups"))
    node = model.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name != missing]
    del node.attribute[:]
    node.attribute.extend(kept)
    with pytest.raises(checker.ValidationError, match=missing):
        checker.check_model(model, full_check=True)


# --- shapes -----------------------------------------------------------------------------------


def inferred(model: onnx.ModelProto) -> tuple[int, list[int | str | None] | None]:
    """Element type and dimensions of Y as inference alone finds them; None where it knows nothing.

    onnx calls unknown dimensions of an output ``unk__0`` and so on.
    """
    model.graph.output[0].ClearField("type")
    y = shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type
    if not y.HasField("shape"):
        return y.elem_type, None
    return y.elem_type, [
        dim.dim_value if dim.HasField("dim_value") else _name_of(dim.dim_param)
        for dim in y.shape.dim
    ]


def _name_of(parameter: str) -> str | None:
    return None if parameter.startswith("unk__") else parameter or None


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_shape_of_golden_cases(case: LayerCase):
    x_type = TensorProto.FLOAT16 if case.x.dtype == np.float16 else TensorProto.FLOAT
    model = packed_model(case.layer, case.x.shape, x_type)
    assert inferred(model) == (x_type, list(case.expected.output.shape))


@pytest.mark.parametrize(
    ("x_dims", "y_dims"),
    [
        (["batch", 32], ["batch", 4]),
        ([7, 32], [7, 4]),
        (["batch", "tokens", 32], ["batch", "tokens", 4]),
        (["batch", 5, 32], ["batch", 5, 4]),
        ([32], [4]),
        ([None, 32], [None, 4]),
        (["batch", "K"], ["batch", 4]),
        ([None, None], [None, 4]),
        (None, None),
    ],
)
def test_linear_shape(x_dims: Dims, y_dims: Dims):
    model = packed_model(layer_case("linear_p3_a4").layer, x_dims)
    assert inferred(model) == (TensorProto.FLOAT, y_dims)


@pytest.mark.parametrize(
    ("x_dims", "y_dims"),
    [
        # kernel 3 x 2, strides 2 and 1, pads 1, 0, 2, 1, dilations 2 and 3, two rows
        (["batch", 3, 9, 8], ["batch", 2, 4, 6]),
        ([5, 3, 10, 9], [5, 2, 5, 7]),
        (["batch", 3, "height", 8], ["batch", 2, None, 6]),
        (["batch", 3, 9, "width"], ["batch", 2, 4, None]),
        (["batch", 3, None, None], ["batch", 2, None, None]),
        ([None, None, 9, 8], [None, 2, 4, 6]),
        (None, None),
    ],
)
def test_conv_shape(x_dims: Dims, y_dims: Dims):
    model = packed_model(layer_case("conv_dilation_stride").layer, x_dims)
    assert inferred(model) == (TensorProto.FLOAT, y_dims)


@pytest.mark.parametrize("name", ["linear_p3_a4", "conv_dilation_stride"])
def test_rows_are_unknown_where_row_order_has_no_shape(name):
    """Packed tensors may come from elsewhere than initializers."""
    case = layer_case(name)
    model = packed_model(case.layer, case.x.shape)
    tensors = {t.name: t for t in model.graph.initializer}
    moved = tensors["layer.row_order"]
    model.graph.initializer.remove(moved)
    model.graph.input.append(helper.make_tensor_value_info(moved.name, TensorProto.INT32, ["rows"]))
    shape = list(case.expected.output.shape)
    shape[-1 if case.layer.conv is None else 1] = None
    assert inferred(model) == (TensorProto.FLOAT, shape)


@pytest.mark.parametrize("name", ["linear_p3_a4", "conv_3x3"])
def test_another_input_type_is_refused(name):
    case = layer_case(name)
    model = packed_model(case.layer, case.x.shape, TensorProto.DOUBLE)
    with pytest.raises((checker.ValidationError, shape_inference.InferenceError), match="type"):
        checker.check_model(model, full_check=True)
