"""The C++ plugin on the emulated GPU: what the Python one is, and exact."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
import pytest
from fixtures import random_layer
from golden.draws import Draws
from golden.reader import LayerCase, layer_case, layer_cases
from onnx import helper

from mpq_export.core.integer_reference import ConvGeometry, PackedLayer, run_layer
from mpq_export.errors import LayerError
from mpq_export.lowering.kernel_nodes import INPUTS, make_kernel_node
from mpq_export.runtimes.tensorrt.kernels import AbsentKernels
from mpq_export.runtimes.tensorrt.plugin_calls import PluginCalls
from mpq_export.runtimes.tensorrt.plugin_fields import field_names, read_fields, written_fields
from plugins.kernels.emulated import EmulatedGpu, emulated_kernels
from plugins.kernels.prepared import to_channels_last

from .driver import (
    HWC,
    HWC8,
    LINEAR,
    OTHER_FORMAT,
    OTHER_TYPE,
    TYPES,
    DrivenPlugin,
    Driver,
    PluginRefused,
    core_driver,
)  # fmt: skip

Fields = dict[str, np.ndarray]
FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)
CONVOLUTIONS = [case for case in layer_cases() if case.layer.conv is not None]


def kernel_node(layer: PackedLayer) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    return make_kernel_node("a node", layer, "X", "step_index", "Y")


def node_fields(node: onnx.NodeProto) -> Fields:
    """A node's attributes as TensorRT's parser hands them to a plugin."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {
        name: np.frombuffer(values[name], np.int8)
        if isinstance(values[name], bytes)
        else np.atleast_1d(np.array(values[name], np.int32))
        for name in field_names(node.op_type)
    }


@contextlib.contextmanager
def plugin_of(
    driver: Driver, layer: PackedLayer
) -> Iterator[tuple[DrivenPlugin, dict[str, np.ndarray]]]:
    node, tensors = kernel_node(layer)
    with driver.created(node.op_type, "a node", node_fields(node)) as plugin:
        yield plugin, tensors


def input_shapes(
    x: Sequence[int], tensors: dict[str, np.ndarray], *residual: Sequence[int]
) -> list[Sequence[int]]:
    return [x, (1,), *(array.shape for array in tensors.values()), *residual]


def run(
    driver: Driver,
    gpu: EmulatedGpu,
    case: LayerCase,
    tensor_format: int = LINEAR,
    residual: np.ndarray | None = None,
    largest: Sequence[int] | None = None,
) -> np.ndarray:
    """Y as a plugin computes it that an engine has kept: workspace for the largest shape."""
    memory = gpu.device.memory
    placed = np.ascontiguousarray if tensor_format == LINEAR else to_channels_last
    x, tensor = case.x, (TYPES[case.x.dtype], tensor_format)
    with plugin_of(driver, case.layer) as (built, tensors):
        residuals = [] if residual is None else [residual]
        shapes = input_shapes(x.shape, tensors, *(one.shape for one in residuals))
        built.configure(shapes)
        space = memory.allocate(built.workspace_bytes(largest or x.shape, tensor))
        op_type = "MPQLinear" if case.layer.conv is None else "MPQConv"
        kept = built.fields()
    with driver.created(op_type, "of an engine", kept, from_engine=True) as loaded:
        assert loaded.output_shape(x.shape) == case.y.shape
        arrays = [placed(x), np.array([case.step_index], np.int32), *tensors.values(),
                  *map(placed, residuals)]  # fmt: skip
        held = [memory.upload(np.ascontiguousarray(array)) for array in arrays]
        like = placed(case.y)
        y = memory.allocate(like.nbytes)
        with loaded.cloned() as context:
            context.configure(shapes, running=True)
            addresses = [buffer.address for buffer in held]
            context.enqueue(x.shape, tensor, addresses, y.address, space.address)
    found = np.frombuffer(y.read(), like.dtype).reshape(like.shape)
    return found if tensor_format == LINEAR else np.moveaxis(found, -1, 1)


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_golden_cases_are_exact(driver: Driver, gpu: EmulatedGpu, case: LayerCase) -> None:
    np.testing.assert_array_equal(run(driver, gpu, case), case.y)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_golden_convolutions_are_exact_with_channels_last(
    driver: Driver, gpu: EmulatedGpu, case: LayerCase
) -> None:
    np.testing.assert_array_equal(run(driver, gpu, case, HWC), case.y)


@pytest.mark.parametrize("tensor_format", [LINEAR, HWC8])
@pytest.mark.parametrize("with_residual", [False, True])
def test_half_precision_and_residuals_are_exact(
    driver: Driver, gpu: EmulatedGpu, tensor_format: int, with_residual: bool
) -> None:
    conv = ConvGeometry((3, 3), (2, 1), (1, 1, 1, 1))
    layer, draws = random_layer([3] * 40, 9 * 24, 4, conv), Draws(5)
    x = draws.bell((2, 24, 6, 7)).astype(np.float16)
    case = LayerCase("half", layer, x, 1, run_layer(layer, x, 1))
    residual = draws.bell(case.y.shape).astype(np.float16) if with_residual else None
    expected = case.y
    if residual is not None:
        expected = (case.y.astype(np.float32) + residual.astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(run(driver, gpu, case, tensor_format, residual), expected)


def test_a_smaller_shape_runs_in_the_largest_ones_workspace(
    driver: Driver, gpu: EmulatedGpu
) -> None:
    """Columns are split for it alone."""
    layer = random_layer([3] * 40, 2000, 4)
    x = Draws(6).bell((1, 3, 2000)).astype(np.float32)
    case = LayerCase("small", layer, x, 0, run_layer(layer, x, 0))
    np.testing.assert_array_equal(run(driver, gpu, case, largest=(4, 100, 2000)), case.y)


def test_enqueue_allocates_nothing(gpu: EmulatedGpu) -> None:
    """Neither where it runs nor where it is refused."""
    driver, case = core_driver(emulated_kernels()), layer_case("conv_3x3")
    memory, tensor = gpu.device.memory, (TYPES[FLOAT32], LINEAR)
    with plugin_of(driver, case.layer) as (plugin, tensors):
        arrays = [case.x, np.array([case.step_index], np.int32), *tensors.values()]
        held = [memory.upload(np.ascontiguousarray(array)) for array in arrays]
        inputs, y = [buffer.address for buffer in held], memory.allocate(case.y.nbytes)
        space = memory.allocate(plugin.workspace_bytes(case.x.shape, tensor))
        before = driver.functions.driver_allocations()
        plugin.enqueue(case.x.shape, tensor, inputs, y.address, space.address)
        assert driver.functions.driver_allocations() == before
        with pytest.raises(PluginRefused):
            plugin.enqueue(case.x.shape, tensor, inputs, 8, space.address + 8)
        assert driver.functions.driver_allocations() <= before + 1  # what the driver itself keeps
        with plugin.cloned():
            assert driver.functions.driver_allocations() > before + 1


# --- one specification with the Python plugin -----------------------------------------------------


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_an_engine_keeps_the_same_as_of_the_python_plugin(driver: Driver, case: LayerCase) -> None:
    node, _ = kernel_node(case.layer)
    with plugin_of(driver, case.layer) as (plugin, _):
        kept = plugin.fields()
        with plugin.cloned() as clone:
            assert str(clone.fields()) == str(kept)
    theirs = written_fields(read_fields(node.op_type, "a node", kept, 99))
    assert {name: value.tolist() for name, value in kept.items()} == {
        name: value.tolist() for name, value in theirs.items()
    }
    with driver.created(node.op_type, "another name", theirs, from_engine=True) as again:
        assert str(again.fields()) == str(kept)


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_its_workspace_is_the_python_plugins(
    driver: Driver, gpu: EmulatedGpu, case: LayerCase
) -> None:
    node, _ = kernel_node(case.layer)
    with plugin_of(driver, case.layer) as (plugin, _):
        layer = read_fields(node.op_type, "a node", plugin.fields(), 99)
        python = PluginCalls(layer, gpu.device.library)
        for dtype in (FLOAT32, FLOAT16):
            found = plugin.workspace_bytes(case.x.shape, (TYPES[dtype], LINEAR))
            assert found == python.workspace_bytes(case.x.shape, dtype == FLOAT16)


# --- types and formats ----------------------------------------------------------------------------


def accepted(plugin: DrivenPlugin, x: tuple[int, int]) -> bool:
    """Whether X may be so, all else as it must be then."""
    node_types = ["i4", "i4", "i4", "i1", "f4", "f4", "i4", "i4", "f4", "i4", "f4", "i1"]
    others = [(TYPES[np.dtype(kind)], LINEAR) for kind in node_types]
    tensors = [x, *others, x]
    assert len(others) == len(INPUTS) - 1
    answers = [plugin.takes(tensors[: i + 1], i, len(INPUTS)) for i in range(len(tensors))]
    assert all(answers[1:])  # once X is known, nothing else depends on it
    return answers[0]


ALL_FORMATS = [(kind, at) for kind in range(OTHER_TYPE + 1) for at in range(OTHER_FORMAT + 1)]


def taken(driver: Driver, layer: PackedLayer) -> set[tuple[int, int]]:
    with plugin_of(driver, layer) as (plugin, _):
        return {x for x in ALL_FORMATS if accepted(plugin, x)}


def test_formats(driver: Driver) -> None:
    linear = {(TYPES[FLOAT32], LINEAR), (TYPES[FLOAT16], LINEAR)}
    last = linear | {(TYPES[FLOAT32], HWC)}
    same = ConvGeometry((3, 3), pads=(1, 1, 1, 1))
    assert taken(driver, random_layer([3] * 40, 64, 4)) == linear
    assert taken(driver, random_layer([3] * 40, 9 * 20, 4, same)) == last
    assert taken(driver, random_layer([3] * 41, 9 * 24, 4, same)) == last
    assert taken(driver, random_layer([3] * 40, 9 * 24, 4, same)) == last | {(TYPES[FLOAT16], HWC8)}


def test_y_the_residual_and_the_tables_are_held_to_their_types(driver: Driver) -> None:
    half, single = (TYPES[FLOAT16], LINEAR), (TYPES[FLOAT32], LINEAR)
    with plugin_of(driver, layer_case("conv_3x3").layer) as (plugin, _):
        count = len(INPUTS)
        tables = [(TYPES[np.dtype(kind)], LINEAR)
                  for kind in ("i4", "i4", "i4", "i1", "f4", "f4", "i4", "i4", "f4", "i4", "f4",
                               "i1")]  # fmt: skip
        for position in range(1, count):
            wrong = [half, *tables]
            wrong[position] = half
            assert not plugin.takes(wrong[: position + 1], position, count)
        assert plugin.takes([half, *tables, half, half], count, count + 1)
        assert not plugin.takes([half, *tables, single], count, count + 1)
        assert not plugin.takes([half, *tables, half, single], count + 1, count + 1)
        assert not plugin.takes([half, *tables, (half[0], HWC)], count, count)
        assert not plugin.takes([half, *tables, half], count, count + 2)


# --- what is refused ------------------------------------------------------------------------------


def assert_the_python_plugin_refuses(case: LayerCase, shapes: list[Sequence[int]]) -> None:
    """What the C++ one refuses."""
    node, _ = kernel_node(case.layer)
    layer = read_fields(node.op_type, "a node", node_fields(node), 4)
    calls = PluginCalls(layer, AbsentKernels.__new__(AbsentKernels))
    calls.require_inputs(shapes)
    calls.require_inputs([*shapes, case.y.shape])
    for position, name in enumerate([*INPUTS[1:], "residual"], start=1):
        wrong = [list(shape) for shape in (*shapes, case.y.shape)]
        wrong[position][-1] += 1
        with pytest.raises(LayerError, match=rf"\(a node\)\. ({name}|act_zero_point) is "):
            calls.require_inputs(wrong)
    for other in ([(*case.x.shape, 1, 1), *shapes[1:]], shapes[:-1]):
        with pytest.raises(LayerError, match=r"X is|12 inputs"):
            calls.require_inputs(other)


@pytest.mark.parametrize("name", ["linear_mixed_planes", "conv_groups"])
def test_inputs_of_other_shapes_are_refused(driver: Driver, name: str) -> None:
    case = layer_case(name)
    with plugin_of(driver, case.layer) as (plugin, tensors):
        shapes = input_shapes(case.x.shape, tensors)
        assert_the_python_plugin_refuses(case, shapes)
        for running in (False, True):
            plugin.configure(shapes, running)
            plugin.configure([*shapes, case.y.shape], running)
            for position, input_name in enumerate([*INPUTS[1:], "residual"], start=1):
                wrong = [list(shape) for shape in (*shapes, case.y.shape)]
                wrong[position][-1] += 1
                with pytest.raises(PluginRefused, match=f"a node: ({input_name}|act_zero_point) "):
                    plugin.configure(wrong, running)
            with pytest.raises(PluginRefused, match="a node: X "):
                plugin.configure([(*case.x.shape, 1, 1), *shapes[1:]], running)
            with pytest.raises(PluginRefused, match="a node: it has 12 inputs"):
                plugin.configure(shapes[:-1], running)


def test_an_input_too_large_is_refused(driver: Driver) -> None:
    case = layer_case("conv_3x3")
    with plugin_of(driver, case.layer) as (plugin, tensors):
        channels = case.layer.input_channels
        for shape in ((2**20, channels, 2**10, 2**10), (2**40, channels, 4, 4)):
            with pytest.raises(PluginRefused, match=r"a node: the kernels do not take"):
                plugin.workspace_bytes(shape, (TYPES[FLOAT32], LINEAR))
            # Builders ask for a workspace where no answer is an error; so it is said before.
            with pytest.raises(PluginRefused, match=r"a node: the kernels do not take"):
                plugin.configure(input_shapes(shape, tensors))


def test_a_call_that_the_kernels_refuse_says_so(driver: Driver) -> None:
    case = layer_case("conv_3x3")
    with plugin_of(driver, case.layer) as (plugin, tensors):
        plugin.configure(input_shapes(case.x.shape, tensors), running=True)
        with pytest.raises(PluginRefused, match=r"a node: the kernels do not take .* misaligned"):
            plugin.enqueue(case.x.shape, (TYPES[FLOAT32], LINEAR), [8] * len(INPUTS), 8, 8)


def _set(key: str, *values: int) -> Callable[[Fields], None]:
    return lambda fields: fields.update({key: np.array(values, np.int32)})


@pytest.mark.parametrize(
    "damage",
    [
        *((lambda fields, key=key: fields.pop(key)) for key in field_names("MPQConv")),
        _set("layout", 1),
        lambda fields: fields.update(layout=np.frombuffer(b"mma-0\0", np.int8)),
        lambda fields: fields.update(layout=np.frombuffer(b"mma-10", np.int8)),
        lambda fields: fields.update(layout=np.array([-1, -2], np.int8)),
        lambda fields: fields.update(K=np.array([1.0], np.float32)),
        _set("K", 0), _set("K", 1, 2), _set("K", 2**30), _set("K", 37),
        _set("act_bits", 9), _set("act_bits", 1), _set("top_shift", -1), _set("top_shift", 7),
        _set("group", 0), _set("group", 7), _set("group", 2**31 - 1),
        _set("plane_rows"), _set("plane_rows", 3, 4), _set("plane_rows", 3, 0),
        _set("plane_rows", *[1] * 9), _set("pads", 1, 1), _set("pads", -1, 0, 0, 0),
        _set("strides", 1, 1, 1), _set("strides", 0, 1), _set("kernel_shape", 0, 3),
        _set("kernel_shape", 2**31 - 1, 2**31 - 1), _set("dilations", 1, 2**30),
        _set("multiprocessors", 0), _set("multiprocessors", 2**17),
        _set("engine_format", 2), _set("engine_format"), _set("a_later_versions", 1),
    ],
)  # fmt: skip
def test_fields_of_no_layer_are_refused(driver: Driver, damage: Callable[[Fields], None]) -> None:
    node, _ = kernel_node(layer_case("conv_groups").layer)
    fields = node_fields(node)
    with driver.created(node.op_type, "a node", fields):
        pass
    damage(fields)
    with (
        pytest.raises(PluginRefused, match=r"^a node: "),
        driver.created(node.op_type, "a node", fields),
    ):
        pass
