"""Layers that become sums: the halves of concatenations, and shifts beyond one layer."""

from dataclasses import replace

import fixtures
import numpy as np
import pytest
import torch

from mpq_export.bundle import read_bundle, write_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.core.channel_parts import parts_by_module
from mpq_export.core.integer_reference import check_layer
from mpq_export.core.layers import ChannelSum, FrozenLayer, StepIndex, shared_copy
from mpq_export.core.planes import unpack
from mpq_export.errors import BundleError
from mpq_export.evaluation import node_fidelity
from mpq_export.evaluation.check import check_bundle, noise_feeds
from mpq_export.export import export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.lowering.kernel_nodes import is_kernel_node, read_kernel_layer
from mpq_export.lowering.names import Target
from mpq_export.lowering.nodes import all_nodes
from mpq_export.lowering.plain_int8 import plain_int8_tensors
from mpq_export.lowering.targets import read_lowered
from mpq_export.methods import recipe_of
from mpq_export.methods.layer_parts import Part, part_statistics, read_parts, written_parts
from mpq_export.precision import BitSpec
from mpq_export.reconstruction.choices import PowerOfTwoChoices, RoundingChoices, ScalingChoices
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import runnable_graph
from mpq_export.training.calibration import InputStatistics

SHORTCUTS = {f"up_blocks.{i}.resnets.{j}.conv_shortcut" for i in range(2) for j in range(2)}
RECIPE = recipe_of("dmq").model_copy(
    update={
        "calibration_images": 4,
        # So that the tiny model has shifts at all; learned scales would take their work.
        "power_of_two": PowerOfTwoChoices(agreement=0.5),
        "scaling": None,
        "rounding": RoundingChoices(iterations=2, samples=6, batch=2),
    }
)


@pytest.fixture(scope="module", params=["w4a4", "w4a8"])
def bundle(request, pipeline_folder, tmp_path_factory):
    """Lowered to every target; with 8 bits no shift fits into a layer."""
    out = tmp_path_factory.mktemp(request.param) / "b"
    bits = BitSpec.parse(request.param)
    asked = ExportRequest(bits, RECIPE, tuple(Target), fixtures.NUM_STEPS, 0, out)
    return export_checkpoint(load_checkpoint(pipeline_folder), asked, fixtures.SilentProgress())


def test_halves_are_parts_and_shifts_are_there(bundle):
    parts = {name.rpartition(".")[0] for name in bundle.channels}
    assert parts >= SHORTCUTS
    assert all(name.endswith("conv_shortcut") for name in parts)
    for name, layer in bundle.layers.items():
        check_layer(layer)
        room = 8 - layer.act_bits
        assert layer.input_shift.max() <= room
        assert layer.input_shift.min() == 0, "what all channels share is the table's"
        others = [own for own in bundle.channels if name.startswith(own.rpartition(".")[0] + ".")]
        if name in bundle.channels and name != others[0]:
            assert not layer.bias.any(), "the first part has the bias"
    if bundle.quantization.bits == "w4a4":
        assert parts == SHORTCUTS, "shifts fit"
        assert len(bundle.channels) == 2 * len(SHORTCUTS)
        assert any(layer.input_shift.any() for layer in bundle.layers.values())
    else:
        assert len(bundle.channels) > 2 * len(SHORTCUTS)


@pytest.mark.parametrize("runtime", [Runtime.ORT, Runtime.ORT_PORTABLE, Runtime.ONNX])
def test_every_part_equals_its_layer_in_every_runtime(bundle, pipeline_folder, runtime):
    checkpoint = load_checkpoint(pipeline_folder)
    report = check_bundle(
        bundle, runtime, checkpoint, fixtures.NUM_STEPS, 2, 0, fixtures.SilentProgress()
    )
    assert {node.name for node in report.nodes} == set(bundle.layers)
    assert report.passed
    parts = [node for node in report.nodes if node.name in bundle.channels]
    # Against the full-precision layer of the same channels: 4 bits leave some signal.
    assert all(node.output_snr_db > 3 for node in parts)
    # Nodes are compared for the inputs that they have: this sees where their outputs go.
    assert report.against_torch.relative < 0.1


def total_of(graph, taps):
    """The tensor in which a graph has the sum of some parts, added in their order; a later one may
    take the sum so far as its residual."""
    nodes = list(all_nodes(graph.model.graph.node))
    total = taps[0].y
    for tap in taps[1:]:
        if tap.residual == total:
            total = tap.y
        else:
            (add,) = [
                node for node in nodes
                if node.op_type == "Add" and set(node.input) == {total, tap.y}
            ]  # fmt: skip
            (total,) = add.output
    return total


@pytest.mark.parametrize(
    "runtime", [Runtime.ORT, Runtime.ORT_FUNCTIONS, Runtime.ORT_PORTABLE, Runtime.ONNX]
)
def test_the_sum_of_a_module_has_the_same_bits_everywhere(bundle, runtime):
    """Of two parts and of more: torch's, of what the runtime's own parts have read."""
    graph = runnable_graph(bundle, runtime)
    taps = {
        module: [node_fidelity._tap(graph.model, name) for name in names]
        for module, names in parts_by_module(bundle.channels).items()
    }
    totals = {module: total_of(graph, own) for module, own in taps.items()}
    wanted = [tap for own in taps.values() for tap in own]
    wanted += [replace(taps[module][0], x=total, y=total) for module, total in totals.items()]
    (feed, *_) = noise_feeds(bundle, fixtures.NUM_STEPS, 2, seed=0)
    (values,) = node_fidelity._record(graph, wanted, [feed])
    step = StepIndex(int(feed["step_index"][0]))
    for module, own in taps.items():
        names = [tap.layer for tap in own]
        channels = [bundle.channels[name] for name in names]
        shape = list(values[own[0].x].shape)
        shape[1] = sum(map(len, channels))
        x = np.zeros(shape, np.float32)
        for tap, part in zip(own, channels, strict=True):
            x[:, part] = values[tap.x]
        parts = [FrozenLayer(bundle.layers[name], step) for name in names]
        summed = ChannelSum(parts, channels, is_conv=True)(torch.from_numpy(x))
        np.testing.assert_array_equal(values[totals[module]], summed.numpy(), err_msg=module)
    most = max(len(own) for own in taps.values())
    assert most > 2 or bundle.quantization.bits == "w4a4", "an order is seen from three on"


def test_tensorrt_reads_the_same_parts(bundle):
    graph = read_lowered(bundle.path, Target.TRT)
    nodes = {node.name: node for node in all_nodes(graph.model.graph.node) if is_kernel_node(node)}
    assert nodes.keys() == bundle.layers.keys()
    for name in bundle.channels:
        layer = read_kernel_layer(nodes[name], graph.values())
        np.testing.assert_array_equal(layer.input_shift, bundle.layers[name].input_shift)
        np.testing.assert_array_equal(layer.input_factor, bundle.layers[name].input_factor)


def test_tensorrt_without_a_plugin_has_the_same_parts(bundle):
    values = read_lowered(bundle.path, Target.TRT_INT8).values()
    for name in bundle.channels:
        for key, value in plain_int8_tensors(name, bundle.layers[name]).items():
            np.testing.assert_array_equal(values[key], value, err_msg=key)


def test_parts_of_scaled_layers_have_their_factors(pipeline_folder, tmp_path):
    recipe = RECIPE.model_copy(
        update={"scaling": ScalingChoices(iterations=4, samples=60, batch=16), "rounding": None}
    )
    asked = ExportRequest(
        BitSpec(4, 4), recipe, (Target.ORT,), fixtures.NUM_STEPS, 0, tmp_path / "b"
    )
    checkpoint = load_checkpoint(pipeline_folder)
    bundle = export_checkpoint(checkpoint, asked, fixtures.SilentProgress())
    for name in bundle.channels:
        layer = bundle.layers[name]
        # Powers of two are the shifts'; the rest is tau.
        left = np.log2(layer.input_factor) % 1
        assert np.unique(left).size > 1
    report = check_bundle(
        bundle, Runtime.ORT, checkpoint, fixtures.NUM_STEPS, 2, 0, fixtures.SilentProgress()
    )
    assert report.passed
    assert report.against_torch.relative < 0.1


def test_parts_that_share_nothing_out_are_refused(bundle, tmp_path):
    name = next(iter(bundle.channels))
    wrong = replace(bundle, channels=bundle.channels | {name: bundle.channels[name] + 1})
    (tmp_path / "b").mkdir()
    write_bundle(tmp_path / "b", wrong)
    with pytest.raises(BundleError, match="parts of a layer"):
        read_bundle(tmp_path / "b")


def test_what_was_seen_of_some_channels():
    seen = InputStatistics(
        torch.arange(8.0).view(2, 4), torch.arange(8.0).view(2, 4) + 1,
        torch.arange(12.0).view(2, 6), torch.tensor([0, 1, 2, 3, 1, 0]),
        torch.arange(16.0).view(2, 8),
    )  # fmt: skip
    part = part_statistics(seen, np.array([1, 3], np.int32))
    assert part.low.tolist() == [[1, 3], [5, 7]]
    assert part.sample_channels.tolist() == [0, 1, 0]
    assert part.samples.tolist() == [[1, 3, 4], [7, 9, 10]]
    assert part.patches.tolist() == [[1, 3, 5, 7], [9, 11, 13, 15]]


def test_votes_that_were_counted_are_read_again():
    parts = [
        Part(np.array([0, 2, 5], np.int32), np.array([0, 1, 3], np.int8)),
        Part(np.array([1, 3, 4], np.int32), np.zeros(3, np.int8)),
    ]
    again = read_parts(written_parts(parts, 6))
    for one, other in zip(parts, again, strict=True):
        for field in ("channels", "shift"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
            assert getattr(one, field).dtype == getattr(other, field).dtype


def test_a_split_model_can_be_trained(bundle, pipeline_folder):
    from mpq_export.training.choices import Trained, TrainingChoices
    from mpq_export.training.student import LayerStart, build_student

    teacher = load_checkpoint(pipeline_folder).model
    bits = BitSpec.parse(bundle.quantization.bits)
    starts = {
        name: LayerStart(
            layer,
            RECIPE.weight_form,
            8 if name in bundle.quantization.eight_bit else bits.weight,
            bundle.channels.get(name),
            name not in bundle.quantization.eight_bit,
        )
        for name, layer in bundle.layers.items()
    }
    student = build_student(
        shared_copy(teacher), starts, TrainingChoices(trained=Trained.FULL), seed=0
    )
    packed = student.packed()
    for name in bundle.channels:
        np.testing.assert_allclose(packed[name].input_factor, bundle.layers[name].input_factor)
    for name, start in starts.items():
        if start.is_rounded:
            # What rounding has learned is where training begins, not the nearest levels.
            one, own = unpack(start.packed.weight), unpack(packed[name].weight)
            np.testing.assert_array_equal(one.weights(), own.weights())
    learning = {name for name, layer in student.layers.items() if layer.bias.requires_grad}
    assert learning >= {name for name in bundle.layers if name not in bundle.channels}
    assert {name for name in bundle.channels if name in learning} == {
        name for name in bundle.channels if name.endswith(".0")
    }, "a module has one bias"
