"""The temporal block's rounding, learned on its features: nearer than the nearest levels."""

from dataclasses import replace

import fixtures
import numpy as np
import pytest
from torch import nn

from mpq_export.checkpoints import load_checkpoint
from mpq_export.core.integer_reference import check_layer
from mpq_export.core.layers import shared_copy
from mpq_export.core.planes import unpack
from mpq_export.core.table_steps import TableSteps
from mpq_export.errors import LayerError
from mpq_export.methods import recipe_of
from mpq_export.methods.quantize import quantize_model
from mpq_export.precision import BitSpec
from mpq_export.reconstruction.choices import PowerOfTwoChoices, RoundingChoices
from mpq_export.reconstruction.finished import NOTHING_KEPT, KeptParts
from mpq_export.temporal.choices import CacheChoices

W3A8 = BitSpec(3, 8)
CHOICES = RoundingChoices(iterations=200, samples=12, batch=8, rate=0.03)


class Notes(fixtures.SilentProgress):
    def __init__(self):
        super().__init__()
        self.texts = []

    def note(self, text):
        self.texts.append(text)

    def errors(self):
        """Of nearest and of learned rounding."""
        (text,) = (t for t in self.texts if t.startswith("temporal features"))
        return [float(word) for word in text.partition(": ")[2].split(" to ")]


@pytest.fixture(scope="module")
def checkpoint(pipeline_folder):
    return load_checkpoint(pipeline_folder)


def quantize(checkpoint, finished=NOTHING_KEPT, progress=None, bits=W3A8, **changes):
    changes = {"calibration_images": 4, "cache": None, "rounding": None,
               "temporal_rounding": CHOICES} | changes  # fmt: skip
    return quantize_model(
        shared_copy(checkpoint.model), checkpoint.model_config, checkpoint.scheduler_config,
        bits, recipe_of("tfmq-dm").model_copy(update=changes), fixtures.NUM_STEPS, 0,
        progress or fixtures.SilentProgress(), None, finished,
    )  # fmt: skip


def same_codes(one, other):
    return {
        name: np.array_equal(unpack(layer.weight).codes, unpack(other.layers[name].weight).codes)
        for name, layer in one.layers.items()
    }


def test_features_are_nearer_and_only_the_block_changes(checkpoint):
    notes = Notes()
    nearest, learned = (
        quantize(checkpoint, temporal_rounding=None),
        quantize(checkpoint, progress=notes),
    )
    before, after = notes.errors()
    assert after < 0.8 * before
    changed = {name for name, same in same_codes(nearest, learned).items() if not same}
    assert changed == {name for name in nearest.layers if name.endswith("time_emb_proj")}
    for name in changed:
        check_layer(learned.layers[name])
        one, other = (unpack(m.layers[name].weight) for m in (nearest, learned))
        assert np.array_equal(one.steps, other.steps)
        assert np.array_equal(one.scale, other.scale)


def test_layers_at_eight_bits_are_not_learned(checkpoint):
    eight = quantize(checkpoint, bits=BitSpec(8, 8))
    assert all(same_codes(quantize(checkpoint, bits=BitSpec(8, 8), temporal_rounding=None), eight)
               .values())  # fmt: skip


def test_it_is_the_same_again_and_goes_on_behind_what_is_finished(checkpoint, tmp_path):
    kept, notes = KeptParts(tmp_path / "parts"), Notes()
    first = quantize(checkpoint, kept)
    again = quantize(checkpoint, kept, notes)
    assert not notes.texts
    assert all(same_codes(first, again).values())
    assert all(same_codes(first, quantize(checkpoint)).values())


def test_other_blocks_are_fitted_without_the_temporal_layers(checkpoint):
    """So that what they learned on their features stays."""
    choices = RoundingChoices(iterations=10, samples=6, batch=4)
    alone, both = quantize(checkpoint), quantize(checkpoint, rounding=choices)
    same = same_codes(alone, both)
    assert all(same[name] for name in same if "time_emb" in name)
    assert not all(same.values())


def test_the_whole_method_caches_what_it_fitted(checkpoint):
    from mpq_export.temporal.choices import CacheChoices

    found = quantize(checkpoint, cache=CacheChoices(), bits=BitSpec(4, 6))
    errors = found.cached.config.errors
    assert len(errors) == 8
    assert all(table < layers for table, layers in errors.values())
    assert not any("time_emb" in name for name in found.layers)


@pytest.mark.parametrize("without", ["cache", "temporal_rounding", None])
def test_layers_of_temporal_features_have_no_parts(checkpoint, without):
    """All others may: any shift is a part of its own with 8 bits."""
    from mpq_export.temporal.choices import CacheChoices

    shifts = PowerOfTwoChoices(match=("*",), agreement=0.3)
    changes = {"cache": CacheChoices(), "temporal_rounding": RoundingChoices(iterations=2)}
    found = quantize(
        checkpoint, power_of_two=shifts, split_concatenations=True, bits=BitSpec(4, 8),
        **changes | ({without: None} if without else {}),
    )  # fmt: skip
    parts = {name.rpartition(".")[0] for name in found.channels}
    assert len(parts) > 4
    assert not any("time_emb" in name or "class_emb" in name for name in parts)
    if without != "cache":
        # An identity in a layer's place would be off by far more.
        assert all(layers < 0.3 for _, layers in found.cached.config.errors.values())
        assert not any("time_emb" in name for name in found.layers)
    else:
        assert any("time_emb" in name for name in found.layers)


def test_shared_tables_are_alike_at_all_steps(checkpoint):
    shared = quantize(checkpoint, temporal_rounding=None, tables=TableSteps.SHARED)
    own = quantize(checkpoint, temporal_rounding=None)
    for name, layer in shared.layers.items():
        assert len(set(layer.act_scale.tolist())) == 1
        assert len(set(layer.act_zero_point.tolist())) == 1
        assert len(layer.act_scale) == len(own.layers[name].act_scale)
    assert any(len(set(layer.act_scale.tolist())) > 1 for layer in own.layers.values())


class Twice(nn.Module):
    """A layer that is asked two things in one step."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + self.layer(2 * x)


@pytest.mark.parametrize(
    "changes",
    [{"cache": CacheChoices(), "temporal_rounding": None}, {}],
    ids=["cached", "fitted"],
)
def test_a_layer_with_two_features_in_a_step_is_an_error_in_words(checkpoint, changes):
    own = replace(checkpoint, model=shared_copy(checkpoint.model))
    block = own.model.down_blocks[0].resnets[0]
    block.time_emb_proj = Twice(block.time_emb_proj)
    with pytest.raises(LayerError, match="neither cached nor fitted apart") as caught:
        quantize(own, **changes)
    assert "down_blocks.0.resnets.0.time_emb_proj.layer gives different" in caught.value.why
    assert "cache: null and temporal_rounding: null" in caught.value.fix
    layers = quantize(own, cache=None, temporal_rounding=None).layers
    assert "down_blocks.0.resnets.0.time_emb_proj.layer" in layers
