"""What an engine's inspector says, in words that engines of several versions use."""

from __future__ import annotations

import json

import pytest

from mpq_export.runtimes.tensorrt.engine_layers import EngineLayer, layer_by_name, read_layers

CONV = {
    "Name": "down.0.conv1",
    "LayerType": "PluginV3",
    "Inputs": [
        {"Name": "x", "Dimensions": [2, 8, 4, 4], "Format/Datatype": "Half"},
        {"Name": "step", "Dimensions": [1], "Format/Datatype": "Int32"},
    ],
    "Outputs": [{"Name": "y", "Dimensions": [2, 16, 4, 4], "Format/Datatype": "Half"}],
    "TacticName": "",
    "Metadata": "[ONNX Layer: down.0.conv1]",
}
FUSED = {
    "Name": "__myl_MeanSubMulAddSilu_myl3_7",
    "LayerType": "kgen",
    "Inputs": [{"Format/Datatype": "Row major linear FP32"}],
    "Outputs": [{"Dimensions": [-1, 16, 4, 4]}],
    "TacticName": "__myl_MeanSubMulAddSilu_0x1f",
    "Metadata": "[ONNX Layer: norm]\u001e[ONNX Layer: silu/mul]\u001f[ONNX Layer: silu]",
}


def read(*layers: object) -> list[EngineLayer]:
    return list(read_layers(json.dumps({"Layers": layers, "Bindings": ["sample"]})))


def test_a_layer_has_its_node_types_sizes_and_kernel() -> None:
    plugin, fused = read(CONV, FUSED)
    assert plugin == EngineLayer(
        "down.0.conv1", "PluginV3", ("down.0.conv1",), types=("float16", "int32"), elements=512
    )
    assert fused.nodes == ("norm", "silu/mul", "silu")
    assert (fused.kernel, fused.types, fused.elements) == (FUSED["TacticName"], ("float32",), None)
    assert not fused.copies


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Float", "float32"), ("Half", "float16"), ("Int8", "int8"), ("BFloat16", "bfloat16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "float16"), ("N/A", None),
    ],
)  # fmt: skip
def test_types_are_read_from_prose(said: str, name: str | None) -> None:
    (layer,) = read({"Name": "a", "Inputs": [{"Format/Datatype": said}]})
    assert layer.types == (() if name is None else (name,))


def test_copies_are_known_by_kind_and_by_name_and_belong_to_what_they_are_for() -> None:
    reformat = "Reformatting CopyNode for Input Tensor 0 to down.0.conv1"
    found = read(
        {"Name": "a copy", "LayerType": "Reformat", "Metadata": "[ONNX Layer: b]"},
        {"Name": reformat, "LayerType": "NoOp"},
        {"Name": "__myl_MoveTran_myl0_3", "LayerType": "kgen"},
        {"Name": "__myl_MoveAdd_myl0_3", "LayerType": "kgen"},
    )
    assert [layer.copies for layer in found] == [True, True, True, False]
    assert [layer.nodes[0] for layer in found[:2]] == ["b", "down.0.conv1"]


def test_engines_that_hold_names_alone_have_layers_too() -> None:
    """Of the network's own layers joined by TensorRT, and of what it compiles as one."""
    found = read("conv + sigmoid + mul", "{ForeignNode[a...b]}", CONV["Name"])
    assert [layer.kind for layer in found] == ["", "", ""]
    assert found[0].nodes == ("conv", "sigmoid", "mul")
    assert found[2] == layer_by_name("down.0.conv1")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"Layers": 5}', "[" * 100_000])
def test_what_is_no_description_has_no_layers(text: str) -> None:
    assert read_layers(text) == ()


def test_fields_that_are_other_than_expected_are_left_out() -> None:
    wrong = {
        "Name": 5, "LayerType": None, "Inputs": ["x"], "Outputs": [{"Dimensions": "2x3"}],
        "TacticName": 7, "Metadata": ["m"],
    }  # fmt: skip
    (layer,) = read(wrong)
    assert (layer.name, layer.kind, layer.types, layer.elements) == ("", "", (), None)
