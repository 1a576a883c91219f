"""All stages together: scales, parts and shifts, cached features, and training behind them."""

import signal
from dataclasses import replace

import fixtures
import numpy as np
import pytest
import torch

from mpq_export.bundle import WEIGHTS
from mpq_export.checkpoints import load_checkpoint
from mpq_export.core.integer_reference import check_layer
from mpq_export.core.layers import FrozenLayer, StepIndex
from mpq_export.errors import Interrupted
from mpq_export.evaluation.check import check_bundle
from mpq_export.export import export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.lowering.kernel_nodes import is_kernel_node, read_kernel_layer
from mpq_export.lowering.names import Target
from mpq_export.lowering.nodes import all_nodes
from mpq_export.lowering.plain_int8 import plain_int8_tensors
from mpq_export.lowering.targets import read_lowered
from mpq_export.methods import recipe_of
from mpq_export.precision import BitSpec
from mpq_export.prediction import predict
from mpq_export.reconstruction.choices import PowerOfTwoChoices, ScalingChoices
from mpq_export.runtimes.names import Runtime
from mpq_export.sampling import untabled_steps
from mpq_export.training.relation_settings import MemorySettings
from mpq_export.training.student import LayerStart, build_student

BITS = BitSpec(3, 4)
WHOLE = recipe_of("mpq-combined")
RECIPE = WHOLE.model_copy(
    update={
        "calibration_images": 4,
        "scaling": ScalingChoices(iterations=4, samples=60, batch=16),
        # So that the tiny model has shifts at all.
        "power_of_two": PowerOfTwoChoices(agreement=0.4),
        "training": WHOLE.training.model_copy(
            update={
                "updates": 3, "groups": 2, "images_per_group": 2, "rank": 4,
                "memory": MemorySettings(
                    capacity=90, sampled=30, pushed_per_image=4, rows_per_image=8
                ),
            }
        ),
    }
)  # fmt: skip


class StopsIn(fixtures.SilentProgress):
    """Sends a signal to its own process after the first part of a task."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.wanted = task

    def advance(self, parts: int = 1) -> None:
        if self.tasks[-1] == self.wanted and parts:
            self.wanted = ""
            signal.raise_signal(signal.SIGTERM)


def export(folder, out, targets=(), resume=False, progress=None):
    asked = ExportRequest(BITS, RECIPE, targets, fixtures.NUM_STEPS, 0, out, resume=resume)
    return export_checkpoint(load_checkpoint(folder), asked, progress or fixtures.SilentProgress())


@pytest.fixture(scope="module")
def bundle(pipeline_folder, tmp_path_factory):
    return export(pipeline_folder, tmp_path_factory.mktemp("combined") / "b", tuple(Target))


def test_it_holds_what_every_stage_made(bundle):
    assert bundle.features is not None
    assert not any("time_emb" in name for name in bundle.layers)
    assert any("conv_shortcut" in name for name in bundle.channels)
    assert any(layer.input_shift.any() for layer in bundle.layers.values())
    factors = [np.log2(layer.input_factor) % 1 for layer in bundle.layers.values()]
    assert sum(np.unique(left).size > 1 for left in factors) > 5
    for layer in bundle.layers.values():
        check_layer(layer)


@pytest.mark.parametrize("runtime", [Runtime.ORT, Runtime.ORT_PORTABLE, Runtime.ONNX])
def test_every_node_equals_the_reference(bundle, pipeline_folder, runtime):
    report = check_bundle(
        bundle, runtime, load_checkpoint(pipeline_folder), fixtures.NUM_STEPS, 2, 0,
        fixtures.SilentProgress(),
    )  # fmt: skip
    assert {node.name for node in report.nodes} == set(bundle.layers)
    assert report.passed
    assert report.against_torch.relative < 0.1


def test_tensorrt_reads_the_same_layers(bundle):
    graph = read_lowered(bundle.path, Target.TRT)
    nodes = {node.name: node for node in all_nodes(graph.model.graph.node) if is_kernel_node(node)}
    plain = read_lowered(bundle.path, Target.TRT_INT8).values()
    assert nodes.keys() == bundle.layers.keys()
    for name, layer in bundle.layers.items():
        read = read_kernel_layer(nodes[name], graph.values())
        for field in ("input_shift", "input_factor", "act_scale", "act_zero_point", "bias"):
            np.testing.assert_array_equal(getattr(read, field), getattr(layer, field))
        for key, value in plain_int8_tensors(name, layer).items():
            np.testing.assert_array_equal(plain[key], value, err_msg=key)


@torch.no_grad()
def test_what_is_trained_is_what_is_deployed(bundle, pipeline_folder):
    """Every layer of a student, inside its network, gives the bits of the packed one."""
    checkpoint = load_checkpoint(pipeline_folder)
    eight = bundle.quantization.eight_bit
    starts = {
        name: LayerStart(
            layer, RECIPE.weight_form, 8 if name in eight else 3, bundle.channels.get(name)
        )
        for name, layer in bundle.layers.items()
    }
    student = build_student(checkpoint.model, starts, RECIPE.training, seed=0)
    generator = torch.Generator().manual_seed(0)
    for layer in student.layers.values():
        layer.log_act_scale += 0.1 * torch.randn(layer.log_act_scale.shape, generator=generator)
        layer.levels.log_scale += 0.1
    student.project()
    packed, step, seen = student.packed(), StepIndex(), []

    def compare(name):
        frozen = FrozenLayer(packed[name], step)

        def hook(_module, args, output):
            assert torch.equal(frozen(args[0]), output), name
            seen.append(name)

        return hook

    for name, layer in student.layers.items():
        if name not in eight:
            layer.register_forward_hook(compare(name))
    for step.value, timestep in enumerate(bundle.timesteps.tolist()):
        student.entries.value = torch.full((2,), step.value)
        sample = torch.randn(2, *bundle_shape(bundle), generator=generator)
        labels = {"class_labels": torch.tensor([0, 1])}
        predict(student.module, checkpoint.model_config, sample, torch.tensor(timestep), labels)
    assert set(seen) == set(student.layers) - set(eight)
    assert set(bundle.channels) <= set(seen)


def bundle_shape(bundle):
    config = bundle.model_config
    return config["in_channels"], config["sample_size"], config["sample_size"]


def test_timesteps_that_the_table_does_not_have_are_told(bundle):
    """Three steps are its own; of five, evenly spread from the same end, the first is."""
    assert untabled_steps(bundle, fixtures.NUM_STEPS) == []
    other = untabled_steps(bundle, 5)
    assert len(other) == 4
    assert not set(other) & set(bundle.timesteps.tolist())
    assert untabled_steps(replace(bundle, features=None), 5) == []


def test_a_killed_run_ends_with_the_same_bits(bundle, pipeline_folder, tmp_path):
    """Once while scales are learned, once while it trains."""
    out = tmp_path / "b"
    for task, resume in (("learn scales", False), ("train", True)):
        with pytest.raises(Interrupted):
            export(pipeline_folder, out, (), resume, StopsIn(task))
    again = export(pipeline_folder, out, (), resume=True)
    assert (again.path / WEIGHTS).read_bytes() == (bundle.path / WEIGHTS).read_bytes()
