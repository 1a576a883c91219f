"""What the TensorRT plugin does without TensorRT: fields, shapes, workspace, the launches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from fixtures import random_layer
from golden.reader import LayerCase, layer_case, layer_cases
from onnx import helper
from plugins.kernels.emulated import BUILDS, EmulatedGpu, emulated_kernels
from plugins.kernels.fake_driver import DriverGpu

from mpq_export.core.integer_reference import ConvGeometry
from mpq_export.errors import LayerError
from mpq_export.lowering.kernel_nodes import INPUTS, make_kernel_node
from mpq_export.runtimes.gpu_kernels.interface import LAYER_ARRAYS
from mpq_export.runtimes.gpu_kernels.plan_file import plan_library
from mpq_export.runtimes.tensorrt import kernels as building_kernels
from mpq_export.runtimes.tensorrt.kernels import AbsentKernels
from mpq_export.runtimes.tensorrt.plugin_calls import PluginCalls
from mpq_export.runtimes.tensorrt.plugin_fields import (
    MULTIPROCESSORS,
    PluginLayer,
    field_names,
    read_fields,
    written_fields,
)

Fields = dict[str, np.ndarray]
AnyGpu = EmulatedGpu | DriverGpu


@pytest.fixture(scope="module", params=[EmulatedGpu, DriverGpu])
def gpu(request: pytest.FixtureRequest) -> AnyGpu:
    """Kernels of a library, and kernels that CUDA's driver launches."""
    made: AnyGpu = request.param.of(emulated_kernels())
    return made


def node_fields(node: onnx.NodeProto) -> Fields:
    """A node's attributes as TensorRT's parser hands them to a plugin."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {
        name: np.frombuffer(values[name] + b"\0", np.int8)
        if isinstance(values[name], bytes)
        else np.atleast_1d(np.array(values[name], np.int32))
        for name in field_names(node.op_type)
    }


def described(layer, multiprocessors: int = 4) -> tuple[PluginLayer, dict[str, np.ndarray]]:
    node, tensors = make_kernel_node("layer", layer, "X", "step_index", "Y")
    return read_fields(node.op_type, "layer", node_fields(node), multiprocessors), tensors


def whole(size: int, extra: int, stride: int) -> int:
    return (size + extra) // stride + 1


def test_inputs_lie_in_the_order_of_the_c_interface() -> None:
    assert INPUTS[2:] == LAYER_ARRAYS


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_an_engine_keeps_what_a_node_said(case: LayerCase) -> None:
    layer, _ = described(case.layer)
    op_type = "MPQLinear" if case.layer.conv is None else "MPQConv"
    assert (layer.rows, layer.channels) == (case.layer.weight.rows, case.layer.input_channels)
    assert layer.conv == case.layer.conv
    # What it was built for stays, whatever it is loaded on.
    assert read_fields(op_type, "layer", written_fields(layer), 99) == layer


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_a_nodes_own_tensors_give_the_reference(gpu: AnyGpu, case: LayerCase) -> None:
    """The way of a plugin: everything from the node, workspace for a larger shape than this."""
    layer, tensors = described(case.layer)
    calls, memory = PluginCalls(layer, gpu.device.library), gpu.device.memory
    shape, float16 = case.x.shape, case.x.dtype == np.float16
    assert tuple(calls.output_shape(shape, whole, layer.rows)) == case.expected.output.shape
    arrays = [case.x, np.array([case.step_index], np.int32), *tensors.values()]
    held = [memory.upload(np.ascontiguousarray(array)) for array in arrays]
    expected = case.expected.output.astype(case.x.dtype)
    y = memory.allocate(expected.nbytes)
    size = calls.workspace_bytes(shape, float16)
    workspace = memory.allocate(size)
    inputs = [buffer.address for buffer in held]
    calls.enqueue(shape, float16, inputs, y.address, (workspace.address, size), None)
    found = np.frombuffer(y.read(), expected.dtype).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)


LAYERS = {
    "linear": (random_layer([3] * 40, 2000, 4), (1, 400)),
    "wide": (random_layer([2] * 300, 1100, 8), (1, 300)),
    "conv": (random_layer([3] * 70, 36 * 60, 4, ConvGeometry((3, 3), pads=(1, 1, 1, 1))), (1, 12)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("multiprocessors", [1, 16, 132])
def test_the_workspace_suffices_for_every_smaller_shape(
    gpu: AnyGpu, name: str, multiprocessors: int
) -> None:
    """Smaller products are shared by more thread blocks, whose sums take more than their inputs."""
    packed, (least, most) = LAYERS[name]
    layer, _ = described(packed, multiprocessors)
    calls, library = PluginCalls(layer, gpu.device.library), gpu.device.library

    def shape(size: int) -> tuple[int, ...]:
        return (size, layer.columns) if layer.conv is None else (size, layer.channels, 5, 7)

    enough = calls.workspace_bytes(shape(most), True)
    needed = [
        library.workspace_bytes(calls._description(), calls._call(shape(size), True))
        for size in range(least, most + 1)
    ]
    assert min(needed) > 0
    assert max(needed) <= enough
    assert enough <= max(needed) + 2 * multiprocessors * 34_000


def test_what_the_kernels_refuse_names_the_node(gpu: AnyGpu) -> None:
    layer, _ = described(layer_case("conv_3x3").layer)
    calls = PluginCalls(layer, gpu.device.library)
    with pytest.raises(LayerError, match="do not take") as caught:
        calls.workspace_bytes((2**20, layer.channels, 2**10, 2**10), False)
    assert "layer, input" in str(caught.value.where)


def test_without_a_gpu_sizes_are_the_kernels_own_and_launches_are_refused(
    gpu: AnyGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building_kernels, "plan_library", lambda: plan_library(BUILDS))
    absent = AbsentKernels()
    for case in layer_cases():
        layer, tensors = described(case.layer)
        sizes = [
            PluginCalls(layer, kernels).workspace_bytes(case.x.shape, False)
            for kernels in (gpu.device.library, absent)
        ]
        assert sizes[0] == sizes[1]
    with pytest.raises(LayerError, match="there is no GPU here"):
        PluginCalls(layer, absent).enqueue(
            case.x.shape, False, [1] * (2 + len(tensors)), 1, (1, sizes[0]), None
        )
    assert "workspace smaller" in absent.status_text(-4)


def _set(key: str, *values: int) -> Callable[[Fields], None]:
    return lambda fields: fields.update({key: np.array(values, np.int32)})


@pytest.mark.parametrize(
    "damage",
    [
        *((lambda fields, key=key: fields.pop(key)) for key in field_names("MPQConv")),
        lambda fields: fields.update(layout=np.frombuffer(b"mma-0\0", np.int8)),
        lambda fields: fields.update(layout=np.array([-1, -2], np.int8)),
        lambda fields: fields.update(K=np.array([1.0], np.float32)),
        _set("K", 0), _set("K", 1, 2), _set("K", 2**30),
        _set("act_bits", 9), _set("act_bits", 1), _set("top_shift", -1), _set("top_shift", 7),
        _set("group", 0), _set("plane_rows"), _set("plane_rows", 3, 4), _set("plane_rows", 3, 0),
        _set("plane_rows", *[1] * 9), _set("pads", 1, 1), _set("strides", 1, 1, 1),
        _set(MULTIPROCESSORS, 0), _set(MULTIPROCESSORS, 2**17),
    ],
)  # fmt: skip
def test_fields_of_no_layer_are_refused(damage: Callable[[Fields], None]) -> None:
    node, _ = make_kernel_node("layer", layer_case("conv_groups").layer, "X", "step_index", "Y")
    fields = node_fields(node)
    read_fields(node.op_type, "layer", fields, 1)
    damage(fields)
    with pytest.raises(LayerError, match="cannot take this layer"):
        read_fields(node.op_type, "layer", fields, 1)
