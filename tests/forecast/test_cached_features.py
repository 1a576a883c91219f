"""The bytes of a bundle with cached features are known before it is made."""

import fixtures
import pytest

from mpq_export.architectures import architecture_of
from mpq_export.bundle import WEIGHTS
from mpq_export.checkpoints import load_checkpoint
from mpq_export.forecast.export import cached_shapes
from mpq_export.forecast.reconstruction import forecast_reconstruction
from mpq_export.forecast.size import forecast_size
from mpq_export.forecast.speed import MachineSpeed, TrainingSpeed
from mpq_export.methods import recipe_of
from mpq_export.methods.plan import plan_layers
from mpq_export.precision import BitSpec
from mpq_export.schedulers import sampling_schedule
from mpq_export.temporal.choices import CacheChoices


@pytest.fixture(scope="module")
def checkpoint(pipeline_folder):
    made = load_checkpoint(pipeline_folder)
    made.model.to("meta")
    return made


def plan_of(checkpoint, recipe, bits):
    architecture = architecture_of(checkpoint.model_config)
    return plan_layers(checkpoint.model, architecture, BitSpec.parse(bits), recipe)


def test_the_forecast_is_the_size_of_the_file(checkpoint, cached_folder):
    recipe = recipe_of("rtn").model_copy(update={"cache": CacheChoices()})
    rows = fixtures.NUM_STEPS
    cached = cached_shapes(checkpoint.model, checkpoint.model_config, rows, recipe)
    assert len(cached.removed) == 11
    plan = plan_of(checkpoint, recipe, "w4a8")
    forecast = forecast_size(checkpoint.model, plan, rows, cached=cached)
    assert forecast.packed_bytes == (cached_folder / WEIGHTS).stat().st_size
    assert len(forecast.layers) == 41


def test_a_recipe_without_cache_removes_nothing(checkpoint):
    assert cached_shapes(checkpoint.model, checkpoint.model_config, 3, recipe_of("rtn")) is None


def test_the_temporal_block_is_learned_apart(checkpoint):
    recipe = recipe_of("tfmq-dm")
    plan = plan_of(checkpoint, recipe, "w4a8")
    speed = MachineSpeed({}, per_table_row=0, per_mac=1.0, per_moved=0, per_recorded=0)
    made = forecast_reconstruction(
        checkpoint.model, checkpoint.model_config, plan, recipe,
        sampling_schedule(checkpoint.scheduler_config, 3), speed, TrainingSpeed(0, 0),
        forecast_size(checkpoint.model, plan, 3),
    )  # fmt: skip
    numbers = sum(
        checkpoint.model.get_submodule(name).weight.numel()
        for name in plan.layers if name.endswith("time_emb_proj")
    )  # fmt: skip
    choices = recipe.temporal_rounding
    expected = 3 * choices.batch * numbers * choices.iterations
    assert (made.temporal.low * made.temporal.high) ** 0.5 == pytest.approx(expected)
    assert made.scaling is None
