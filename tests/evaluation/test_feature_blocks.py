"""Statistics in blocks against the vectors that they are of."""

from itertools import pairwise

import numpy as np
import pytest

from mpq_export.evaluation.feature_blocks import BLOCKS, MOST_FEATURES, FeatureBlocks
from mpq_export.evaluation.frechet import FeatureStatistics

FEATURES = np.random.default_rng(0).normal(size=(100, 6)) * 3 + 5


def assert_close(found, expected):
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-9)


@pytest.mark.parametrize("cuts", [(), (7, 64), (1, 2, 99)])
def test_a_resample_is_of_the_images_whose_numbers_fall_into_its_blocks(cuts):
    """However the images were gathered."""
    parts = [FeatureBlocks.of(FEATURES[a:b], range(a, b)) for a, b in pairwise((0, *cuts, 100))]
    blocks = parts[0]
    for part in parts[1:]:
        blocks = blocks.joined(part)
    assert blocks.counts.sum() == 100
    assert_close(blocks.resampled(np.arange(BLOCKS)), FeatureStatistics.of(FEATURES))
    rows = np.array([3, 3, 31, 0])
    taken = np.concatenate([FEATURES[row::BLOCKS] for row in rows])
    assert_close(blocks.resampled(rows), FeatureStatistics.of(taken))


def test_few_images_leave_blocks_empty():
    blocks = FeatureBlocks.of(FEATURES[:3], range(3))
    assert np.flatnonzero(blocks.counts).tolist() == [0, 1, 2]
    assert_close(blocks.resampled(np.arange(BLOCKS)), FeatureStatistics.of(FEATURES[:3]))


def test_wide_features_have_no_blocks():
    assert FeatureBlocks.of(np.zeros((2, MOST_FEATURES + 1)), range(2)) is None
