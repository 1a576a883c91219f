"""Names beside points."""

from itertools import combinations

import numpy as np
import pytest

from mpq_export.evaluation.bench.pages.labels import Frame, placed_labels

FRAME = Frame(0, 460, 0, 340)
RADIUS = 5


@pytest.mark.parametrize("seed", range(5))
def test_names_are_never_over_each_other_nor_over_points(seed):
    rng = np.random.default_rng(seed)
    around = rng.uniform((60, 60), (400, 280), (4, 2))
    points = [tuple(point) for k in range(20) for point in [around[k % 4] + rng.normal(0, 15, 2)]]
    named = [(f"method-{k}-w3a4", *point) for k, point in enumerate(points)]
    labels = placed_labels(named, points, FRAME, RADIUS)
    assert len(labels) >= 12
    for one, other in combinations(labels.values(), 2):
        assert not one.meets(other)
    for label in labels.values():
        assert label.lies_in(FRAME)
        assert not any(label.covers(*point, RADIUS) for point in points)


def test_a_name_goes_left_where_there_is_no_room_to_the_right():
    points = [(440.0, 100.0), (20.0, 200.0)]
    named = [("right-edge", *points[0]), ("left-edge", *points[1])]
    found = placed_labels(named, points, FRAME, RADIUS)
    assert [found[k].anchor for k in (0, 1)] == ["end", "start"]
    assert not any(label.tied for label in found.values())


def test_a_name_without_room_is_left_out():
    points = [(x, y) for x in range(0, 460, 12) for y in range(0, 340, 12)]
    assert placed_labels([("name", 120.0, 120.0)], points, FRAME, RADIUS) == {}


def test_a_name_that_is_farther_away_is_tied_to_its_point():
    around = [(x, y) for x in (180, 200, 220) for y in (130, 150, 170)]
    points = [(200.0, 150.0), *(point for point in around if point != (200, 150))]
    found = placed_labels([("a-longer-name", *points[0])], points, FRAME, RADIUS)
    assert found[0].tied
