"""The process that draws a row: what its parent reads of it."""

import json
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from mpq_export.pipelines.registry import DrawRequest

from mpq_export.evaluation.bench import drawing
from mpq_export.evaluation.bench.drawing import DRAWN, IMAGES, TRAJECTORY, Drawing, draw_row

CODE = """
import os, sys
from mpq_export.evaluation.bench import drawing

def draw_row(words, on_images):
    print("a library's banner")
    os.write(1, b"from C\\n")
    on_images(words.request.num_images)

drawing.draw_row = draw_row
drawing.main(sys.argv[1])
"""


def test_only_numbers_of_images_are_on_stdout_whatever_libraries_print():
    words = Drawing("f", None, "p", DrawRequest(3, 2, 0), False, None, "o", "u")
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(asdict(words))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "3\n"
    assert "banner" in done.stderr
    assert "from C" in done.stderr


class Killed(Exception):
    """As if the process were gone."""


class Row:
    """A model whose images are their numbers, drawn four at a time."""

    def __init__(self, monkeypatch):
        self.drawn, self.killed_at, self.value = [], None, 0.5
        row = self

        class Denoiser:
            array_type, model_config, selection = np.ndarray, {}, "numbers"

            def __call__(self, sample, timestep):
                return sample

        class Drawer:
            def __init__(self, denoiser):
                self.denoiser = denoiser

            def batches(self, images):
                return (range(first, first + 4) for first in range(0, images.stop, 4))

            def draw_batch(self, part):
                if part.start == row.killed_at:
                    raise Killed
                row.drawn.append(part.start)
                sample = np.full((4, 1, 2, 2), part.start, np.float32)
                self.denoiser(sample, 7.0)
                return np.arange(part.start, part.stop, dtype=np.float32).reshape(4, 1, 1, 1) + (
                    row.value
                )

        monkeypatch.setattr(drawing, "open_row", lambda *_: Denoiser())
        monkeypatch.setattr(drawing, "read_bundle", lambda _: SimpleNamespace())
        monkeypatch.setattr(drawing, "drawer_around", lambda _b, denoiser, _r: Drawer(denoiser))

    def draw(self, folder):
        out, unfinished = folder / "out", folder / "unfinished"
        for path in (out, unfinished):
            path.mkdir(parents=True, exist_ok=True)
        told = []
        places = str(out), str(unfinished)
        draw_row(Drawing("f", None, "p", DrawRequest(10, 2, 0), True, None, *places), told.append)
        return out, told


@pytest.fixture
def row(monkeypatch):
    return Row(monkeypatch)


def test_images_of_a_row_that_was_killed_are_those_of_one_that_was_not(row, tmp_path):
    whole, _ = row.draw(tmp_path / "whole")
    row.drawn, row.killed_at = [], 8
    with pytest.raises(Killed):
        row.draw(tmp_path / "killed")
    assert row.drawn == [0, 4]
    row.drawn, row.killed_at = [], None
    again, told = row.draw(tmp_path / "killed")
    assert row.drawn == [8]
    assert told == [4, 4, 2]
    for name in (IMAGES, TRAJECTORY, DRAWN):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name
    images = np.load(again / IMAGES)
    assert images.shape == (10, 1, 1, 1)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images.ravel(), np.arange(10) + 0.5)


def test_a_batch_that_is_no_number_is_not_kept(row, tmp_path):
    row.value = np.nan
    with pytest.raises(ValueError, match="not finite"):
        row.draw(tmp_path)
    assert list((tmp_path / "unfinished").iterdir()) == []
