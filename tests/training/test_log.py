"""What a run tells of itself."""

import csv

import numpy as np
import pytest
from PIL import Image

from mpq_export.training.log import (
    CSV,
    PICTURE,
    TABLES,
    TableChange,
    TrainingLog,
    UpdateRecord,
    write_log,
)


def log_of(updates, relation=0.5):
    records = [
        UpdateRecord(n, 1 / n + relation / 10, 1 / n, relation, 0.01 * n, 0.02 * n)
        for n in range(1, updates + 1)
    ]
    one, points = np.ones(4, np.float32), np.arange(4, dtype=np.int32)
    tables = {
        "a": TableChange(one, np.linspace(0.9, 1.1, 4, dtype=np.float32), points, points + 1),
        "b": TableChange(one, one, points, points),
    }
    return TrainingLog(records, tables, np.array([999, 666, 333, 0], np.int32))


@pytest.mark.parametrize(("updates", "relation"), [(1, 0.5), (3, 0.0), (200, 0.5)])
def test_rows_and_a_picture(tmp_path, updates, relation):
    log = log_of(updates, relation)
    write_log(log, tmp_path)
    with (tmp_path / CSV).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [record.loss for record in log.records]
    assert [int(row["update"]) for row in rows] == list(range(1, updates + 1))
    with Image.open(tmp_path / PICTURE) as image:
        pixels = np.asarray(image.convert("L"))
    thirds = np.array_split(pixels, 3, axis=1)
    assert all((third < 200).mean() > 0.005 for third in thirds), "every part has its curves"


def test_the_picture_shows_the_losses(tmp_path):
    pictures = []
    for relation in (0.0, 0.5):
        write_log(log_of(50, relation), tmp_path)
        pictures.append((tmp_path / PICTURE).read_bytes())
    assert pictures[0] != pictures[1]


def test_the_tables_before_and_after(tmp_path):
    write_log(log_of(2), tmp_path)
    with (tmp_path / TABLES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["a"] * 4 + ["b"] * 4
    assert [row["timestep"] for row in rows[:4]] == ["999", "666", "333", "0"]
    last = rows[3]
    assert np.float32(last["scale_end"]) == np.float32(1.1)
    assert (last["scale_start"], last["zero_point_start"], last["zero_point_end"]) == (
        "1.0", "3", "4",
    )  # fmt: skip
