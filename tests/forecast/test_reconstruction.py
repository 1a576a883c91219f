"""What learning before training costs, on a machine whose speed is known."""

import pytest

from mpq_export.architectures import architecture_of
from mpq_export.checkpoints import load_checkpoint
from mpq_export.forecast.cost import work_of_call
from mpq_export.forecast.export import cached_shapes, forecast_export
from mpq_export.forecast.parts import forecast_split
from mpq_export.forecast.reconstruction import forecast_reconstruction
from mpq_export.forecast.size import forecast_size
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


def parts_of(checkpoint, recipe, per_mac=0.0, fits=0.0, per_weight=0.0, **units):
    architecture = architecture_of(checkpoint.model_config)
    plan = plan_layers(checkpoint.model, architecture, BitSpec(3, 4), recipe)
    kinds = dict.fromkeys(plan.layers.values(), FitSpeed(0.0, fits))
    costs = {"per_table_row": 0, "per_moved": 0, "per_recorded": 0} | units
    model, config = checkpoint.model, checkpoint.model_config
    cached = cached_shapes(model, config, 3, recipe)
    return plan, forecast_reconstruction(
        model, config, plan, recipe, sampling_schedule(checkpoint.scheduler_config, 3),
        MachineSpeed(kinds, per_mac=per_mac, **costs), TrainingSpeed(per_weight, 0),
        forecast_size(model, plan, 3), forecast_split(model, config, plan, recipe),
        () if cached is None else cached.removed,
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


def test_votes_by_hand(checkpoint):
    """Shortcuts of the tiny model, by what they are given; then as many tables as they compare."""
    recipe = recipe_of("dmq")
    choices, images = recipe.power_of_two, 3 * recipe.calibration_images
    _, made = parts_of(checkpoint, recipe, per_mac=1.0)
    plan, moving = parts_of(checkpoint, recipe, per_moved=1.0)
    work = work_of_call(checkpoint.model, checkpoint.model_config, plan, 1)
    shortcuts = [name for name in plan.layers if name.endswith("conv_shortcut")]
    assert middle(made.votes) == pytest.approx(len(shortcuts) * images * work.macs / 2)
    # Channels of every shortcut's input, and how large its images are.
    sides = {"down_blocks.1": 4, "up_blocks.0": 4, "up_blocks.1": 8}
    values = sum(
        checkpoint.model.get_submodule(name).weight.shape[1] * side * side
        for name in shortcuts for block, side in sides.items() if name.startswith(block)
    )  # fmt: skip
    expected = images * (len(shortcuts) * work.moved / 2 + 9 * 4 * values)
    assert middle(moving.votes) == pytest.approx(expected)
    few = recipe.model_copy(update={"power_of_two": choices.model_copy(update={"samples": 6})})
    _, less = parts_of(checkpoint, few, per_mac=1.0)
    assert middle(less.votes) == pytest.approx(middle(made.votes) * 6 / images)
    # With four bits each of two halves is one part: one shortcut has one, four have two.
    _, fitting = parts_of(checkpoint, recipe, per_table_row=1.0)
    assert middle(fitting.votes) == pytest.approx(3 * 2 * (1 + 4 * 2))


def test_layers_that_a_table_stands_for_learn_no_scales(checkpoint):
    recipe = recipe_of("mpq-combined")
    plan, made = parts_of(checkpoint, recipe, per_mac=1.0)
    cached = cached_shapes(checkpoint.model, checkpoint.model_config, 3, recipe)
    assert len(cached.removed) > 5
    learning = [n for n, own in plan.layers.items() if own.scaling and n not in cached.removed]
    weights = sum(checkpoint.model.get_submodule(name).weight.numel() for name in learning)
    scaling = recipe.scaling
    assert middle(made.scaling) == pytest.approx(3 * scaling.iterations * scaling.batch * weights)
    _, all_of_them = parts_of(checkpoint, recipe.model_copy(update={"cache": None}), per_mac=1.0)
    assert middle(all_of_them.scaling) > middle(made.scaling)


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
        assert ("votes about" in text) is said
        assert text.count("peak memory about") == (2 if said else 1)
        assert ("Votes may add up to" in text) is said
