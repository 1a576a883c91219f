"""The ``trt`` target: layers come back exactly, and what surrounds them computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from fixtures import quantized_bundle, random_layer, save_pipeline
from golden.reader import LayerCase, layer_case, layer_cases
from onnx import TensorProto, helper, numpy_helper

from mpq_export.bundle import read_bundle
from mpq_export.core.kernel_layout import LAYOUT
from mpq_export.core.planes import ContractError
from mpq_export.lowering.engine_graphs import constant_bytes
from mpq_export.lowering.gelu_nodes import GELU
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.kernel_nodes import (
    DOMAIN,
    INPUTS,
    is_kernel_node,
    kernel_schemas,
    make_kernel_node,
    read_kernel_layer,
)
from mpq_export.lowering.names import ENGINE_TARGETS, Target
from mpq_export.lowering.nodes import CONV, LINEAR, all_nodes, model_from_graph
from mpq_export.lowering.norm_nodes import GROUP_NORM_SILU
from mpq_export.lowering.targets import read_lowered
from mpq_export.lowering.tensorrt_form import TENSORRT_OPSET, to_tensorrt
from mpq_export.runtimes.tensorrt.engine_source import read_source
from mpq_export.runtimes.tensorrt.shapes import Range

from .models import case_model, run_in_onnxruntime
from .test_nodes import same_layer
from .test_operators import dit, text_unet

Values = dict[str, np.ndarray]


def kernel_node(case: LayerCase) -> tuple[onnx.NodeProto, Values]:
    return make_kernel_node("layer", case.layer, "X", "step_index", "Y")


# --- packed nodes -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_a_node_reads_back_as_its_layer(case: LayerCase) -> None:
    graph = to_tensorrt(Graph.of(case_model(case)))
    (node,) = graph.model.graph.node
    same_layer(read_kernel_layer(node, graph.values()), case.layer)


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_the_checker_passes_and_infers_the_shape(case: LayerCase) -> None:
    model = to_tensorrt(Graph.of(case_model(case))).inline()
    with kernel_schemas():
        onnx.checker.check_model(model, full_check=True)
    node, values = kernel_node(case)
    kind = helper.np_dtype_to_tensor_dtype(case.x.dtype)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "one",
        [value("X", kind, case.x.shape), value("step_index", TensorProto.INT32, [1])],
        [onnx.ValueInfoProto(name="Y")],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )  # fmt: skip
    closed = model_from_graph(graph, with_mpq=False)
    closed.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    with kernel_schemas():
        inferred = onnx.shape_inference.infer_shapes(closed, strict_mode=True).graph.output[0].type
    dims = tuple(dim.dim_value for dim in inferred.tensor_type.shape.dim)
    assert (inferred.tensor_type.elem_type, dims) == (kind, case.expected.output.shape)


@pytest.mark.parametrize(("name", "op_type"), [("linear_p3_a4", LINEAR), ("conv_groups", CONV)])
def test_a_node_is_what_tensorrt_looks_for(name: str, op_type: str) -> None:
    node, values = kernel_node(layer_case(name))
    assert (node.domain, node.op_type, node.name) == ("trt.plugins", op_type, "layer")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes["layout"] == LAYOUT.encode()
    assert (attributes["plugin_version"], attributes["plugin_namespace"]) == (b"1", b"")
    assert not any(a.type == onnx.AttributeProto.TENSOR for a in node.attribute)
    assert all(node.input)  # TensorRT refuses empty ones
    assert list(node.input) == ["X", "step_index", *(f"layer.{key}" for key in INPUTS[2:])]
    # Of other types not all arrive as they were.
    assert {v.dtype.name for v in values.values()} == {"int32", "int8", "float32"}


def changed(
    key: str, index: tuple[int, ...], to: float
) -> Callable[[onnx.NodeProto, Values], None]:
    def change(node: onnx.NodeProto, values: Values) -> None:
        array = values[f"layer.{key}"].copy()
        array[index] = to
        values[f"layer.{key}"] = array

    return change


def shortened(key: str) -> Callable[[onnx.NodeProto, Values], None]:
    def change(node: onnx.NodeProto, values: Values) -> None:
        values[f"layer.{key}"] = values[f"layer.{key}"][..., :-1]

    return change


def attribute(key: str, value: object) -> Callable[[onnx.NodeProto, Values], None]:
    def change(node: onnx.NodeProto, values: Values) -> None:
        kept = [a for a in node.attribute if a.name != key]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(key, value)])

    return change


@pytest.mark.parametrize(
    "damage",
    [
        *(shortened(key) for key in INPUTS[2:]),
        changed("tile_begins", (0,), 1),
        changed("tile_begins", (-1,), 2**31 - 1),
        changed("row_sums", (0, 0), 5),
        changed("scale", (-1,), 1),  # a padded row
        changed("scale", (0,), np.nan),
        changed("steps", (0, -1), 1),
        changed("output_rows", (0,), 4),
        changed("output_rows", (0,), 2**30),
        changed("words", (-1,), -1),
        attribute("plane_rows", [2**30]),
        attribute("plane_rows", [3, 4]),
        attribute("plane_rows", [5, 3, -1]),
        attribute("K", 0),
        attribute("K", 2**40),
        attribute("top_shift", 1),
        attribute("layout", "canonical"),
        attribute("more", 1),
    ],
)  # fmt: skip
def test_what_is_no_layer_is_refused(damage: Callable[[onnx.NodeProto, Values], None]) -> None:
    layer = random_layer([2, 3, 3, 1, 1], 40, 4)
    node, values = make_kernel_node("layer", layer, "X", "step_index", "Y")
    same_layer(read_kernel_layer(node, values), layer)
    damage(node, values)
    with pytest.raises(ContractError):
        read_kernel_layer(node, values)


# --- what surrounds them ------------------------------------------------------------------------


def norm_graph(shape: list[int | str]) -> Graph:
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    node = helper.make_node(
        "GroupNormalization", ["x", "scale", "bias"], ["y"], name="norm", num_groups=4, epsilon=1e-3
    )
    tensors = {key: rng.normal(size=8).astype(np.float32) for key in ("scale", "bias")}
    graph = helper.make_graph(
        [node], "norm",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    return Graph.of(model_from_graph(graph), tensors)


@pytest.mark.parametrize("shape", [[3, 8, 5, 6], [2, 8, 7], ["batch", 8, 5, 6]])
def test_group_norms_become_what_old_parsers_take(shape: list[int | str]) -> None:
    graph = norm_graph(shape)
    lowered = to_tensorrt(graph).inline()
    onnx.checker.check_model(lowered, full_check=True)
    assert {entry.domain: entry.version for entry in lowered.opset_import}[""] == TENSORRT_OPSET
    assert "GroupNormalization" not in {node.op_type for node in lowered.graph.node}
    sizes = [size if isinstance(size, int) else 2 for size in shape]
    feeds = {"x": np.random.default_rng(1).normal(3, 5, sizes).astype(np.float32)}
    del lowered.opset_import[1:]  # ONNX Runtime refuses a domain that it does not know
    found, expected = run_in_onnxruntime(lowered, feeds), run_in_onnxruntime(graph.inline(), feeds)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("domain", "op_type"),
    [("", "RMSNormalization"), ("", "NoSuchOperator"), ("mpq", GELU), ("mpq", GROUP_NORM_SILU)],
)
def test_operators_that_tensorrt_lacks_are_refused(domain: str, op_type: str) -> None:
    """Of other meaning in its opset, or the processor's own."""
    graph = norm_graph([1, 8, 2, 2])
    graph.model.graph.node[0].domain = domain
    graph.model.graph.node[0].op_type = op_type
    with pytest.raises(ContractError, match=op_type):
        to_tensorrt(graph)


def test_a_whole_model_keeps_its_layers(lowered_folder: Path) -> None:
    layers, graph = read_bundle(lowered_folder).layers, read_lowered(lowered_folder, Target.TRT)
    assert not graph.model.functions
    nodes = {node.name: node for node in graph.model.graph.node if is_kernel_node(node)}
    assert nodes.keys() == layers.keys()
    values = graph.values()
    for name, node in nodes.items():
        same_layer(read_kernel_layer(node, values), layers[name])


def sdxl() -> UNet2DConditionModel:
    """Cross-attention of several layers, sizes and pooled text as embeddings."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=12,
        transformer_layers_per_block=(1, 2), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=34,
    )  # fmt: skip


def pixart() -> PixArtTransformer2DModel:
    """Texts of another width than the model's, with their sizes; learned variance."""
    return PixArtTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, num_layers=1, patch_size=2,
        num_attention_heads=3, attention_head_dim=12, cross_attention_dim=36, caption_channels=16,
        use_additional_conditions=True,
    )  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[None, text_unet, sdxl, dit, pixart],
    ids=["UNet", "text UNet", "SDXL", "DiT", "PixArt"],
)
def any_lowered(
    request: pytest.FixtureRequest, lowered_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle of each kind of model, lowered for TensorRT."""
    if request.param is None:
        return lowered_folder
    folder, targets = tmp_path_factory.mktemp("kind"), ENGINE_TARGETS
    pipeline = save_pipeline(folder / "pipeline", request.param())
    return quantized_bundle(pipeline, folder / "bundle", "rtn", targets=targets)


@pytest.mark.parametrize("target", ENGINE_TARGETS)
@pytest.mark.parametrize("batch", [1, 8])
def test_engines_are_built_of_them(any_lowered: Path, target: Target, batch: int) -> None:
    """What is read before TensorRT reads it refuses none of ours."""
    source = read_source(read_bundle(any_lowered), target, f"batch:{batch}")
    assert source.constants == constant_bytes(read_lowered(any_lowered, target))
    assert source.ranges["batch"] == Range(batch, batch, batch)


@pytest.mark.parametrize("target", ENGINE_TARGETS)
def test_models_have_operators_that_tensorrt_knows(any_lowered: Path, target: Target) -> None:
    """ONNX's of the opset, and the plugin's; nothing of what is fused for the processor."""
    graph = read_lowered(any_lowered, target)
    found = {(node.domain, node.op_type) for node in all_nodes(graph.model.graph.node)}
    own = {one for one in found if one[0]}
    assert own == ({(DOMAIN, LINEAR), (DOMAIN, CONV)} if target is Target.TRT else set())
    for _, op_type in found - own:
        assert onnx.defs.get_schema(op_type, TENSORRT_OPSET).domain == ""
