"""Memory of what is learned before training, by hand."""

import pytest

from mpq_export.architectures import architecture_of
from mpq_export.checkpoints import load_checkpoint
from mpq_export.forecast.cost import PROGRAM_BYTES, calls_of_modules
from mpq_export.forecast.reconstruction_memory import reconstruction_bytes
from mpq_export.forecast.size import forecast_size
from mpq_export.methods import recipe_of
from mpq_export.methods.plan import plan_layers
from mpq_export.precision import BitSpec
from mpq_export.reconstruction import calls
from mpq_export.schedulers import sampling_schedule

STEPS = 3


@pytest.fixture(scope="module")
def checkpoint(pipeline_folder):
    made = load_checkpoint(pipeline_folder)
    made.model.to("meta")
    return made


@pytest.fixture(scope="module")
def learning(checkpoint):
    """The bytes beside the program and the models, of a recipe."""

    def made(recipe):
        model, config = checkpoint.model, checkpoint.model_config
        plan = plan_layers(model, architecture_of(config), BitSpec(3, 4), recipe)
        size = forecast_size(model, plan, STEPS)
        schedule = sampling_schedule(checkpoint.scheduler_config, STEPS)
        held = PROGRAM_BYTES + size.fp32_bytes
        if recipe.learns_rounding:
            held += size.fp32_bytes + size.packed_bytes
        return reconstruction_bytes(model, config, plan, recipe, schedule, size) - held

    return made


def rounding_alone(**changes):
    recipe = recipe_of("dmq")
    rounding = recipe.rounding.model_copy(update=changes)
    nothing = {"scaling": None, "power_of_two": None, "split_concatenations": False}
    return recipe.model_copy(update={**nothing, "rounding": rounding})


def test_samples_of_the_block_whose_calls_are_largest(checkpoint, learning):
    """With so many samples that they are all that counts."""
    samples = 3000
    blocks = [
        name for name, module in checkpoint.model.named_modules()
        if type(module).__name__ in ("ResnetBlock2D", "Attention")
        or name.endswith("amplers.0.conv")
    ]  # fmt: skip
    run = calls_of_modules(checkpoint.model, checkpoint.model_config, blocks)
    held = [samples * 4 * (2 * call.inputs + 3 * call.outputs) for call in run.values()]
    made = learning(rounding_alone(samples=samples, batch=1))
    assert made == max(held)
    # Behind what is upsampled: 16 channels of 8 x 8 in and out.
    assert max(held) == samples * 4 * 5 * 16 * 64
    more = learning(rounding_alone(samples=10**6, batch=1))
    assert made < more < 3 * calls.MAX_BYTES


def test_a_larger_batch_keeps_more_until_the_backward_pass(learning):
    few, many = (learning(rounding_alone(samples=1, batch=batch)) for batch in (1000, 3000))
    assert many == pytest.approx(3 * few, rel=0.1)


def test_the_temporal_block_is_learned_whole(checkpoint, learning):
    recipe = recipe_of("tfmq-dm").model_copy(update={"rounding": None, "cache": None})
    weights = sum(
        module.weight.numel() for name, module in checkpoint.model.named_modules()
        if name.endswith("time_emb_proj")
    )  # fmt: skip
    assert learning(recipe) == 128 * weights


def test_votes_and_scales_hold_their_samples_beside_what_calibration_saw(learning):
    recipe = recipe_of("dmq").model_copy(update={"rounding": None})
    assert learning(recipe) > calls.MAX_BYTES
