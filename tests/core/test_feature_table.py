"""Temporal features in eight bits."""

import numpy as np
import pytest

from mpq_export.core.feature_table import (
    FeatureTable,
    check_feature_table,
    fit_feature_table,
    table_bytes,
)
from mpq_export.core.planes import ContractError


def features(seed=0, shape=(5, 3, 40)):
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.normal(0, 3, shape[2]))
    return (rng.normal(size=shape) * spread + 10 * rng.normal(size=shape[2])).astype(np.float32)


def test_every_value_is_within_half_a_step():
    exact = features()
    table = fit_feature_table(exact)
    check_feature_table(table)
    found = np.stack([table.values(step) for step in range(5)])
    assert found.dtype == np.float32
    assert np.all(np.abs(found - exact) <= 0.501 * table.scale + 1e-6 * np.abs(exact))
    assert np.array_equal(table.codes.max(axis=(0, 1)), np.full(40, 127))


def test_the_value_is_a_product_and_a_sum_rounded_each():
    table = fit_feature_table(features(1))
    by_hand = np.float32(np.float32(table.codes[2, 1, 7]) * table.scale[7]) + table.offset[7]
    assert table.values(2)[1, 7] == by_hand


def test_channels_that_do_not_change_are_exact():
    exact = features(2)
    exact[:, :, :4] = [0, -3.25, 1e30, 1e-42]
    table = fit_feature_table(exact)
    check_feature_table(table)
    assert not table.codes[:, :, :4].any()
    assert np.array_equal(table.values(0)[:, :4], exact[0, :, :4])


def test_its_size_is_known_before():
    table = fit_feature_table(features())
    assert table.nbytes == table_bytes(5, 3, 40) == 40 * (15 + 8)


def broken(**change):
    table = fit_feature_table(features())
    return FeatureTable(**{**vars(table), **change})


SCALE = np.ones(40, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((5, 3, 40), np.uint8)}, "codes of features are uint8"),
        ({"codes": np.zeros((15, 40), np.int8)}, "codes of features are"),
        ({"codes": np.zeros((0, 3, 40), np.int8)}, "codes of features are"),
        ({"codes": np.full((5, 3, 40), -128, np.int8)}, "is -128"),
        ({"scale": SCALE[:-1]}, "scale of features"),
        ({"scale": SCALE.astype(np.float64)}, "scale of features"),
        ({"scale": -SCALE}, "negative"),
        ({"scale": SCALE * np.float32(1e-40)}, "denormal"),
        ({"scale": 0 * SCALE}, "no scale"),
        ({"scale": SCALE * np.nan}, "not finite"),
        ({"scale": SCALE * np.float32(3e38)}, "infinite"),
        ({"offset": SCALE * np.inf}, "not finite"),
        ({"offset": SCALE[None]}, "offset of features"),
    ],
)
def test_what_is_no_table_is_refused(change, message):
    with pytest.raises(ContractError, match=message):
        check_feature_table(broken(**change))
