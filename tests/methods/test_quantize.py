"""Applying recipes to the tiny model."""

import copy
import gc
import shutil
from pathlib import Path

import fixtures
import numpy as np
import pytest
import torch

from mpq_export.checkpoints import load_checkpoint
from mpq_export.core.integer_reference import check_layer, column_factors
from mpq_export.core.layers import FrozenLayer, StepIndex, replace_module, weight_matrix
from mpq_export.core.planes import unpack
from mpq_export.errors import RecipeError
from mpq_export.methods import METHODS, recipe_of
from mpq_export.methods.quantize import quantize_model
from mpq_export.precision import BitSpec
from mpq_export.training.trajectories import full_precision_trajectory


def shortened(recipe):
    """What is learned in a few updates."""
    stages = {
        name: stage.model_copy(update={"iterations": 2})
        for name in ("scaling", "rounding")
        if (stage := getattr(recipe, name)) is not None
    }
    return recipe.model_copy(update=stages)


def quantize(checkpoint, method, bits):
    recipe = shortened(recipe_of(method)).model_copy(update={"calibration_images": 4})
    return quantize_model(
        copy.deepcopy(checkpoint.model), checkpoint.model_config, checkpoint.scheduler_config,
        BitSpec.parse(bits), recipe, fixtures.NUM_STEPS, 0, fixtures.SilentProgress(),
    )  # fmt: skip


def prediction_error(checkpoint, quantized):
    """Relative error of the quantised model's predictions along a fresh trajectory."""
    trajectory = list(
        full_precision_trajectory(
            checkpoint.model, checkpoint.model_config, checkpoint.scheduler_config,
            fixtures.NUM_STEPS, 8, 99,
        )
    )  # fmt: skip
    model, step = copy.deepcopy(checkpoint.model), StepIndex()
    for name, layer in quantized.layers.items():
        replace_module(model, name, FrozenLayer(layer, step))
    noise = signal = 0.0
    for item in trajectory:
        step.value = item.entry
        out = model(item.sample, item.timestep, **item.conditions).sample
        noise += float((out - item.prediction).square().sum())
        signal += float(item.prediction.square().sum())
    return (noise / signal) ** 0.5


@pytest.fixture(scope="module")
def checkpoint(pipeline_folder):
    return load_checkpoint(pipeline_folder)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("bits", ["w2a4", "w3a4", "w8a8"])
def test_layers_keep_the_contract_and_the_mean_is_exactly_n(checkpoint, method, bits):
    quantized = quantize(checkpoint, method, bits)
    for name, layer in quantized.layers.items():
        check_layer(layer)
        spec = quantized.plan.bits[name]
        assert layer.act_bits == spec.activation
        assert layer.weight.plane_rows.sum() == spec.weight * layer.weight.rows
        assert len(layer.act_scale) == fixtures.NUM_STEPS
    assert quantized.timesteps.tolist() == [999, 666, 332]


def test_more_bits_are_better_and_eight_are_close(checkpoint):
    errors = {
        bits: prediction_error(checkpoint, quantize(checkpoint, "mpq-dmv2", bits))
        for bits in ("w2a4", "w4a8", "w8a8")
    }
    assert errors["w8a8"] < 0.15
    assert errors["w8a8"] < errors["w4a8"] < errors["w2a4"]


def test_smoothing_folds_into_the_weight(checkpoint):
    """The packed weight times the input factor is the original weight."""
    quantized = quantize(checkpoint, "mpq-dm", "w7a8")
    smoothed = [name for name, la in quantized.layers.items() if np.any(la.input_factor != 1)]
    assert len(smoothed) > 30
    for name in smoothed:
        layer = quantized.layers[name]
        columns = column_factors(layer.input_factor, layer.conv, layer.weight.rows)
        effective = unpack(layer.weight).weights() * columns
        original = weight_matrix(checkpoint.model.get_submodule(name)).numpy()
        assert np.linalg.norm(effective - original) < 0.03 * np.linalg.norm(original), name


def test_layers_kept_at_eight_bits_are_not_smoothed(checkpoint):
    quantized = quantize(checkpoint, "mpq-dm", "w3a4")
    for name in quantized.plan.eight_bit:
        assert np.all(quantized.layers[name].input_factor == 1)


def test_same_seed_same_layers(checkpoint):
    first, second = (quantize(checkpoint, "mpq-dmv2", "w3a4") for _ in range(2))
    for name, layer in first.layers.items():
        np.testing.assert_array_equal(layer.weight.planes, second.layers[name].weight.planes)
        np.testing.assert_array_equal(layer.act_scale, second.layers[name].act_scale)


def test_the_model_is_consumed_layer_by_layer(checkpoint):
    model = copy.deepcopy(checkpoint.model)
    recipe = recipe_of("rtn").model_copy(update={"calibration_images": 2})
    quantized = quantize_model(
        model, checkpoint.model_config, checkpoint.scheduler_config, BitSpec(3, 4), recipe,
        fixtures.NUM_STEPS, 0, fixtures.SilentProgress(),
    )  # fmt: skip
    left = {name for name, _ in model.named_parameters()}
    assert left == set(quantized.parameters)
    assert all(value.is_meta for value in model.parameters())
    assert not any(name.startswith(f"{layer}.") for name in left for layer in quantized.layers)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mappings")
def test_nothing_keeps_the_checkpoint_mapped(pipeline_folder, tmp_path):
    """Its pages would count as memory of the process until the end of the export."""
    pipeline_folder = shutil.copytree(pipeline_folder, tmp_path / "own")
    fresh = load_checkpoint(pipeline_folder)
    recipe = recipe_of("rtn").model_copy(update={"calibration_images": 2})
    weights = str(pipeline_folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights in Path("/proc/self/maps").read_text()
    quantized = quantize_model(
        fresh.model, fresh.model_config, fresh.scheduler_config, BitSpec(3, 4), recipe,
        fixtures.NUM_STEPS, 0, fixtures.SilentProgress(),
    )  # fmt: skip
    assert quantized.layers
    gc.collect()
    assert weights not in Path("/proc/self/maps").read_text()


def test_layers_that_never_run_stay_in_floating_point(checkpoint):
    model = copy.deepcopy(checkpoint.model)
    model.mid_block.spare = torch.nn.Linear(4, 4)
    recipe = recipe_of("rtn").model_copy(update={"calibration_images": 2})
    quantized = quantize_model(
        model, checkpoint.model_config, checkpoint.scheduler_config, BitSpec(3, 4), recipe,
        fixtures.NUM_STEPS, 0, fixtures.SilentProgress(),
    )  # fmt: skip
    assert "does not run" in quantized.plan.kept["mid_block.spare"]
    assert "mid_block.spare.weight" in quantized.parameters


def test_unknown_methods_are_named():
    with pytest.raises(RecipeError, match="mpq-dmv2"):
        recipe_of("gptq")


def test_layers_that_a_table_replaces_learn_no_rounding_with_others(checkpoint):
    """Their blocks would make up for errors that are not there."""

    class Learned:
        def __init__(self):
            self.names = []

        def load(self, name, layout):
            return None

        def save(self, name, tensors):
            if name.startswith("rounding"):
                self.names += tensors

    learned = {}
    for cache in (recipe_of("tfmq-dm").cache, None):
        changes = {"calibration_images": 2, "cache": cache, "scaling": None, "power_of_two": None}
        recipe = shortened(recipe_of("dmq")).model_copy(update=changes)
        kept = Learned()
        quantized = quantize_model(
            copy.deepcopy(checkpoint.model), checkpoint.model_config, checkpoint.scheduler_config,
            BitSpec(3, 4), recipe, fixtures.NUM_STEPS, 0, fixtures.SilentProgress(), None, kept,
        )  # fmt: skip
        learned[cache is not None] = set(kept.names), quantized
    (with_table, quantized), (without, _) = learned[True], learned[False]
    removed = set(quantized.cached.config.removed)
    assert {name for name in removed if name.endswith("time_emb_proj")} <= without
    assert with_table == without - removed
    assert with_table
