"""Inputs beside the sample and the timestep."""

import numpy as np
import pytest

from mpq_export.conditions import BATCH, TOKENS, ClassLabels, Condition, Embedding, Typical

CONDITIONS = [
    ClassLabels("class_labels", 7),
    Embedding("text_embeds", (5,), "added_cond_kwargs"),
    Embedding("encoder_hidden_states", (77, 4), free_length=True),
    Typical("time_ids", (64, 64, 0), "added_cond_kwargs"),
    Typical("encoder_attention_mask", (1.0,) * 6, free_length=True),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda c: c.name)
def test_drawn_values_have_the_stated_form(condition: Condition) -> None:
    drawn = condition.draw(3, np.random.default_rng(0))
    assert drawn.shape == (3, *condition.shape)
    assert drawn.dtype == condition.dtype
    assert condition.free_axes[0] == BATCH
    assert set(condition.free_axes) <= set(range(drawn.ndim))


def test_labels_are_below_their_number_and_all_occur() -> None:
    assert set(ClassLabels("x", 4).draw(200, np.random.default_rng(1))) == {0, 1, 2, 3}


def test_guidance_calls_no_class_for_half_of_the_images() -> None:
    drawn = ClassLabels("x", 4, null=4).draw(200, np.random.default_rng(1))
    assert (drawn == 4).sum() == 100
    assert set(drawn) == {0, 1, 2, 3, 4}


def test_typical_values_are_the_same_for_every_image() -> None:
    drawn = Typical("x", (1, 2)).draw(2, np.random.default_rng(0))
    assert drawn.tolist() == [[1, 2], [1, 2]]


def test_the_number_of_tokens_is_free_where_it_is_said() -> None:
    free = [c.name for c in CONDITIONS if TOKENS in c.free_axes.values()]
    assert free == ["encoder_hidden_states", "encoder_attention_mask"]


def test_the_seed_decides() -> None:
    condition = Embedding("x", (3,))
    one, again, other = (condition.draw(2, np.random.default_rng(s)) for s in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
