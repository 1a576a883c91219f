"""The model that learns: what it shares, what of it trains, and that it begins as quantised."""

import fixtures
import numpy as np
import pytest
import torch

from mpq_export.core.layers import FrozenLayer, StepIndex, replace_module, shared_copy
from mpq_export.core.low_rank_form import LowRankBase, LowRankStart
from mpq_export.core.planes import unpack
from mpq_export.core.trained_layer import TrainedLayer
from mpq_export.errors import LayerError
from mpq_export.prediction import predict
from mpq_export.training.choices import Trained, TrainingChoices
from mpq_export.training.student import build_student

FULL = TrainingChoices(trained=Trained.FULL)
LOW_RANK = TrainingChoices(trained=Trained.LOW_RANK, rank=4)
QUANTIZED = LOW_RANK.model_copy(update={"low_rank_base": LowRankBase.QUANTIZED})
FROM_ERROR = QUANTIZED.model_copy(update={"low_rank_start": LowRankStart.QUANTIZATION_ERROR})
ALL = pytest.mark.parametrize("choices", [FULL, LOW_RANK, QUANTIZED, FROM_ERROR])


@pytest.fixture
def teacher():
    return fixtures.tiny_unet()


@pytest.fixture
def starts(bundle_folder, teacher):
    return fixtures.layer_starts(bundle_folder, teacher)


def call(student, seed=0, images=3):
    """A prediction for images at entries of their own."""
    generator = torch.Generator().manual_seed(seed)
    config = {**fixtures.tiny_unet().config, "_class_name": "UNet2DModel"}
    student.entries.value = torch.arange(images) % fixtures.NUM_STEPS
    timesteps = torch.tensor([999.0, 666, 332])[student.entries.value]
    labels = {"class_labels": torch.arange(images) % fixtures.NUM_CLASSES}
    sample = torch.randn(images, 2, 8, 8, generator=generator)
    return predict(student.module, config, sample, timesteps, labels)


def frozen_prediction(teacher, packed, entry, seed=0, images=3):
    """The same of the deployed layers, all images at one entry."""
    module, step = shared_copy(teacher), StepIndex(entry)
    for name, layer in packed.items():
        replace_module(module, name, FrozenLayer(layer, step))
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(images, 2, 8, 8, generator=generator)
    timestep = torch.tensor([999.0, 666, 332])[entry]
    labels = torch.arange(images) % fixtures.NUM_CLASSES
    return module(sample, timestep, class_labels=labels).sample


def updated(student, choices, updates=2):
    optimizer = torch.optim.Adam(student.parameter_groups(choices))
    for _ in range(updates):
        optimizer.zero_grad()
        call(student).square().mean().backward()
        optimizer.step()
        student.project()
    return student


@ALL
def test_every_trained_parameter_is_in_one_group(teacher, starts, choices):
    student = build_student(teacher, starts, choices, seed=0)
    groups = student.parameter_groups(choices)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    call(student).square().mean().backward()
    trains = {name for name, p in student.module.named_parameters() if id(p) in set(grouped)}
    reached = {name for name, p in student.module.named_parameters() if p.grad is not None}
    assert reached == trains
    assert all(group["lr"] > 0 for group in groups)


@ALL
def test_what_trains(teacher, starts, choices):
    student = build_student(teacher, starts, choices, seed=0)
    own = {name for name, p in student.module.named_parameters() if p.requires_grad}
    branches = {name for name in own if ".branch." in name}
    levels = {f"{name}.levels.log_scale" for name in starts}
    tables = {f"{name}.{key}" for name in starts for key in ("log_act_scale", "act_zero_point")}
    assert levels | tables <= own
    weights = {f"{name}.{key}" for name in starts for key in ("weight", "bias")}
    if choices.trained is Trained.FULL:
        assert not branches
        assert weights <= own
        assert {"conv_norm_out.weight", "class_embedding.weight"} <= own
    else:
        assert own == branches | levels | tables
        eight_bit = {name for name, start in starts.items() if start.bits == 8}
        assert {name.partition(".branch.")[0] for name in branches} == set(starts) - eight_bit
        assert eight_bit


@ALL
def test_the_teacher_never_changes(teacher, starts, choices):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = build_student(teacher, starts, choices, seed=0)
    frozen = {name: p for name, p in student.module.named_parameters() if not p.requires_grad}
    values = {name: p.detach().clone() for name, p in frozen.items()}
    updated(student, choices)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, p in frozen.items():
        assert torch.equal(p, values[name]), name
    changed = (
        student.floating_point()["conv_norm_out.weight"] != before["conv_norm_out.weight"].numpy()
    )
    assert changed.any() == (choices.trained is Trained.FULL)


def test_what_does_not_train_is_shared(teacher, starts):
    student = build_student(teacher, starts, LOW_RANK, seed=0)
    shared = {
        name
        for name, p in student.module.named_parameters()
        if name in teacher.state_dict() and p.data_ptr() == teacher.get_parameter(name).data_ptr()
    }
    floating = {name for name, _ in student.module.named_parameters()} & set(teacher.state_dict())
    floating -= {f"{name}.{key}" for name in starts for key in ("weight", "bias")}
    assert floating <= shared
    assert "conv_norm_out.weight" in floating
    full = build_student(teacher, starts, FULL, seed=0)
    own = full.module.get_parameter("conv_norm_out.weight")
    assert own.data_ptr() != teacher.conv_norm_out.weight.data_ptr()


@pytest.mark.parametrize("choices", [FULL, LOW_RANK, FROM_ERROR])
def test_after_updates_it_is_what_is_deployed(teacher, starts, choices):
    """The whole model, images at entries of their own, against frozen layers at one entry each."""
    student = updated(build_student(teacher, starts, choices, seed=0), choices)
    for name, value in student.floating_point().items():
        teacher.state_dict()[name].copy_(torch.from_numpy(value))
    packed = student.packed()
    with torch.no_grad():
        mixed = call(student)
        for entry in range(fixtures.NUM_STEPS):
            student.entries.value = torch.full((3,), entry)
            deployed = frozen_prediction(teacher, packed, entry)
            torch.testing.assert_close(mixed[entry], deployed[entry], rtol=1e-3, atol=1e-4)
    assert packed.keys() == starts.keys()


def test_a_quantised_base_begins_as_quantised(teacher, starts):
    student = build_student(teacher, starts, QUANTIZED, seed=0)
    for name, layer in student.packed().items():
        if starts[name].bits < 8:
            one, other = unpack(layer.weight), unpack(starts[name].packed.weight)
            np.testing.assert_allclose(one.weights(), other.weights(), rtol=1e-6)


def test_the_quantisation_error_brings_the_weight_nearer(teacher, starts):
    plain, nearer = (build_student(teacher, starts, c, seed=0) for c in (QUANTIZED, FROM_ERROR))
    full = build_student(teacher, starts, FULL, seed=0)
    for name, layer in nearer.layers.items():
        if layer.branch is not None:
            wanted = full.layers[name].real_weight()
            near, far = (
                float((s.layers[name].real_weight() - wanted).detach().norm())
                for s in (nearer, plain)
            )
            assert near < far, name


def test_branches_depend_on_the_seed(teacher, starts):
    one, same, other = (build_student(teacher, starts, LOW_RANK, seed) for seed in (1, 1, 2))
    key = "mid_block.resnets.0.conv1.branch.down"
    assert torch.equal(one.module.get_parameter(key), same.module.get_parameter(key))
    assert not torch.equal(one.module.get_parameter(key), other.module.get_parameter(key))


def test_half_precision_teachers_have_float32_students(teacher, starts):
    student = build_student(teacher.half(), starts, FULL, seed=0)
    assert {p.dtype for p in student.module.parameters()} == {torch.float32}


def test_rates_follow_the_spacing_of_levels(teacher, starts):
    student = build_student(teacher, starts, FULL, seed=0)
    rate_of = {
        id(p): group["lr"] for group in student.parameter_groups(FULL) for p in group["params"]
    }
    for layer in student.layers.values():
        assert isinstance(layer, TrainedLayer)
        spacing = layer.levels.mean_spacing()
        assert rate_of[id(layer.weight)] == pytest.approx(FULL.weight_rate * spacing)
        assert rate_of[id(layer.bias)] == FULL.float_rate
        points = FULL.table_rate * (2**layer.act_bits - 1)
        assert rate_of[id(layer.act_zero_point)] == pytest.approx(points)


def test_a_rate_of_zero_leaves_its_parameters_alone(teacher, starts):
    choices = FULL.model_copy(update={"float_rate": 0.0, "level_rate": 0.0})
    student = updated(build_student(teacher, starts, choices, seed=0), choices)
    assert torch.equal(student.module.conv_norm_out.weight, teacher.conv_norm_out.weight)
    assert not any(torch.any(layer.levels.log_scale) for layer in student.layers.values())
    assert any(torch.any(layer.log_act_scale) for layer in student.layers.values())


def test_a_layer_that_cannot_be_packed_is_named(teacher, starts):
    student = build_student(teacher, starts, FULL, seed=0)
    with torch.no_grad():
        student.layers["conv_out"].weight[0, 0] = float("inf")
    with pytest.raises(LayerError, match=r"conv_out.*weight has a value that is not finite"):
        student.packed()
