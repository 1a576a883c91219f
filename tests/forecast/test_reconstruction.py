"""What learning before training costs, on a machine whose speed is known."""

import pytest

from mpq_export.architectures import architecture_of
from mpq_export.checkpoints import load_checkpoint
from mpq_export.forecast.cost import work_of_call
from mpq_export.forecast.export import forecast_export
from mpq_export.forecast.reconstruction import forecast_reconstruction
from mpq_export.forecast.speed import FitSpeed, MachineSpeed, TrainingSpeed
from mpq_export.forecast.text import totals_text
from mpq_export.methods import recipe_of
from mpq_export.methods.plan import plan_layers
from mpq_export.precision import BitSpec
from mpq_export.schedulers import sampling_schedule


@pytest.fixture(scope="module")
def checkpoint(pipeline_folder):
    made = load_checkpoint(pipeline_folder)
    made.model.to("meta")
    return made


def parts_of(checkpoint, recipe, per_mac=0.0, fits=0.0, per_weight=0.0):
    architecture = architecture_of(checkpoint.model_config)
    plan = plan_layers(checkpoint.model, architecture, BitSpec(3, 4), recipe)
    kinds = dict.fromkeys(plan.layers.values(), FitSpeed(0.0, fits))
    machine = MachineSpeed(kinds, per_table_row=0, per_mac=per_mac, per_moved=0, per_recorded=0)
    return plan, forecast_reconstruction(
        checkpoint.model, checkpoint.model_config, plan, recipe,
        sampling_schedule(checkpoint.scheduler_config, 3), machine, TrainingSpeed(per_weight, 0),
    )  # fmt: skip


def middle(span):
    return (span.low * span.high) ** 0.5


def test_products_of_updates_by_hand(checkpoint):
    """All at one second per multiplication, nothing else costing anything."""
    recipe = recipe_of("dmq")
    plan, made = parts_of(checkpoint, recipe, per_mac=1.0)
    low = [name for name, bits in plan.bits.items() if bits.weight < 8]
    weights = sum(checkpoint.model.get_submodule(name).weight.numel() for name in low)
    scaling = recipe.scaling
    expected = 3 * scaling.iterations * scaling.batch * weights
    assert middle(made.scaling) == pytest.approx(expected)
    call = work_of_call(checkpoint.model, checkpoint.model_config, plan, 1).macs
    updates = 3 * recipe.rounding.iterations * recipe.rounding.batch * call
    assert middle(made.rounding) > updates
    # Samples pass through half the model twice for each of a few dozen blocks.
    assert middle(made.rounding) < updates + 60 * recipe.rounding.samples * call


def test_fits_and_roundings_count(checkpoint):
    recipe = recipe_of("dmq")
    _, made = parts_of(checkpoint, recipe, fits=1.0)
    twice = recipe.scaling.model_copy(update={"refits": 2 * recipe.scaling.refits + 3})
    _, more = parts_of(checkpoint, recipe.model_copy(update={"scaling": twice}), fits=1.0)
    assert middle(more.scaling) == pytest.approx(2 * middle(made.scaling))
    _, rounded = parts_of(checkpoint, recipe, per_weight=1.0)
    assert middle(rounded.rounding) > 0
    assert middle(rounded.scaling) > 0


def test_stages_that_a_recipe_lacks_cost_nothing(checkpoint):
    _, made = parts_of(checkpoint, recipe_of("dmq").model_copy(update={"scaling": None}))
    assert made.scaling is None
    assert made.rounding is not None


def test_a_dry_run_tells_of_them(checkpoint):
    for method, said in (("dmq", True), ("rtn", False)):
        recipe = recipe_of(method)
        architecture = architecture_of(checkpoint.model_config)
        plan = plan_layers(checkpoint.model, architecture, BitSpec(3, 4), recipe)
        text = totals_text(
            forecast_export(
                checkpoint.model,
                checkpoint.model_config,
                checkpoint.scheduler_config,
                plan,
                recipe,
                3,
            )
        )
        assert ("scales of channels about" in text) is said
        assert ("rounding about" in text) is said
