"""What training costs, on a machine whose speed is known."""

import pytest
import torch

from mpq_export.architectures import architecture_of
from mpq_export.checkpoints import load_checkpoint
from mpq_export.forecast import speed
from mpq_export.forecast.cost import PROGRAM_BYTES, work_of_call
from mpq_export.forecast.size import forecast_size
from mpq_export.forecast.speed import MachineSpeed, TrainingSpeed, measure_training
from mpq_export.forecast.training import forecast_training
from mpq_export.methods import recipe_of
from mpq_export.methods.plan import plan_layers
from mpq_export.precision import BitSpec
from mpq_export.schedulers import sampling_schedule
from mpq_export.training.choices import Trained
from mpq_export.training.error_sensitivity import walked_predictions

MACHINE = MachineSpeed({}, per_table_row=0, per_mac=1e-10, per_moved=1e-9, per_recorded=0)
ROUNDING = TrainingSpeed(per_weight=1e-8, per_input=1e-8)
SMALL = {"updates": 5, "groups": 1, "images_per_group": 1, "rank": 1}
UPDATES_ALONE = {"output_bias": False, "error_power": 0.0}


@pytest.fixture(scope="module")
def checkpoint(pipeline_folder):
    made = load_checkpoint(pipeline_folder)
    made.model.to("meta")
    return made


@pytest.fixture
def forecast(checkpoint):
    """By changes of the recipe's training."""

    def make(guidance=1.0, machine=MACHINE, rounding=ROUNDING, **changes):
        own = recipe_of("mpq-dmv2")
        training = own.training.model_copy(update=changes)
        recipe = own.model_copy(update={"training": training, "guidance": guidance})
        architecture = architecture_of(checkpoint.model_config)
        plan = plan_layers(checkpoint.model, architecture, BitSpec(3, 4), recipe)
        schedule = sampling_schedule(checkpoint.scheduler_config, 3)
        size = forecast_size(checkpoint.model, plan, 3)
        return forecast_training(
            checkpoint.model, checkpoint.model_config, plan, recipe, schedule, machine, rounding,
            size,
        )  # fmt: skip

    return make


def test_a_teacher_and_three_passes_of_a_student(forecast, checkpoint):
    """By hand: all at one second per multiplication, nothing else costing anything."""
    machine = MachineSpeed({}, 0, per_mac=1.0, per_moved=0, per_recorded=0)
    free = TrainingSpeed(0, 0)
    made = forecast(machine=machine, rounding=free, trained=Trained.FULL, **UPDATES_ALONE, **SMALL)
    recipe = recipe_of("mpq-dmv2")
    architecture = architecture_of(checkpoint.model_config)
    plan = plan_layers(checkpoint.model, architecture, BitSpec(3, 4), recipe)
    macs = work_of_call(checkpoint.model, checkpoint.model_config, plan, 1).macs
    middle = (made.seconds.low * made.seconds.high) ** 0.5
    assert middle == pytest.approx(5 * 4 * macs)
    changes = {**UPDATES_ALONE, "error_power": 1.0}
    weighed = forecast(
        machine=machine, rounding=free, trained=Trained.FULL, **changes, **SMALL
    ).seconds
    walked = walked_predictions(3) * macs
    assert (weighed.low * weighed.high) ** 0.5 == pytest.approx(5 * 4 * macs + walked)


def test_what_takes_longer(forecast):
    plain = forecast(**SMALL).seconds.low
    for changes in (
        {"updates": 10},
        {"groups": 2},
        {"images_per_group": 2},
        {"guidance": 3.0},
        {"rank": 4},
        {"gradient_checkpointing": True},
    ):
        assert forecast(**SMALL | changes).seconds.low > plain, changes
    many = forecast(**SMALL | UPDATES_ALONE | {"updates": 500}).seconds.low
    few = forecast(**SMALL | UPDATES_ALONE).seconds.low
    assert many == pytest.approx(100 * few)
    assert few < plain
    assert few < forecast(**SMALL | UPDATES_ALONE | {"error_power": 1.0}).seconds.low < plain


def test_images_of_an_update(forecast):
    assert forecast(updates=1, groups=8, images_per_group=4).images_per_update == 32
    guided = forecast(updates=1, groups=8, images_per_group=4, guidance=3.0)
    assert guided.images_per_update == 64


def test_memory_is_of_models_moments_and_what_waits_for_the_backward_pass(forecast, checkpoint):
    parameters = sum(p.numel() for p in checkpoint.model.parameters())
    full = forecast(trained=Trained.FULL, **SMALL).peak_bytes - PROGRAM_BYTES
    assert 20 * parameters < full < 20 * parameters + 2**23
    low, high = (forecast(**SMALL | {"rank": rank}).peak_bytes for rank in (1, 8))
    assert low < high
    assert low < full + PROGRAM_BYTES
    few, many = (forecast(updates=5, groups=n).peak_bytes for n in (2, 64))
    again = forecast(updates=5, groups=64, gradient_checkpointing=True).peak_bytes
    assert few < again < many
    assert forecast(updates=500, groups=2).peak_bytes == few


def test_updates_of_a_layer_are_measured(monkeypatch):
    monkeypatch.setattr(speed, "_LEAST_SECONDS", 0.005)
    measured = measure_training(MACHINE)
    assert 0 < measured.per_weight < 1e-3
    assert 0 <= measured.per_input < 1e-3
    assert torch.is_grad_enabled()
