"""A folder of numbered images: written, gone on with, and refused."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mpq_export.errors import UserError
from mpq_export.image_folder import IMAGES, REQUEST, ImageFolder, as_bytes

ASKED = {"seed": 3, "prompts": ["a", "ü"], "guidance": 7.5, "scheduler": {"beta": 0.1}}


@pytest.fixture
def folder(tmp_path):
    folder = ImageFolder(tmp_path / "out", ASKED)
    folder.open()
    return folder


def some_images(count=5, channels=3):
    shape = (count, channels, 4, 6)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_are_read_back_as_they_were(folder, channels):
    images = some_images(channels=channels)
    with folder.writer() as writer:
        writer.write(7, images)
    np.testing.assert_array_equal(folder.read(range(7, 12)), images)
    assert folder.has(range(7, 12))
    assert not folder.has(range(6, 8))
    assert sorted(path.name for path in folder.path.iterdir()) == [IMAGES, REQUEST]


def test_more_channels_are_refused(folder):
    with folder.writer() as writer, pytest.raises(UserError, match="5 channels"):
        writer.write(0, some_images(channels=5))


def test_the_same_request_goes_on_and_another_does_not(folder):
    ImageFolder(folder.path, dict(ASKED)).open()
    with pytest.raises(UserError, match="differs in seed"):
        ImageFolder(folder.path, ASKED | {"seed": 4}).open()
    with pytest.raises(UserError, match="differs in steps"):
        ImageFolder(folder.path, ASKED | {"steps": 4}).open()


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        ImageFolder(tmp_path, ASKED).open()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="cannot be written"):
        ImageFolder(tmp_path / "thesis.tex", ASKED).open()


@pytest.mark.parametrize(
    "names",
    [[".sampling.c3.json"], [IMAGES], [IMAGES, f".{IMAGES}.a1.partial", ".sampling.b2.json"]],
)
def test_a_beginning_that_ended_early_is_gone_on_with(tmp_path, names):
    """Processes are killed before the request is written; others are about to write it."""
    for name in names:
        (tmp_path / name).mkdir()
    ImageFolder(tmp_path, ASKED).open()
    ImageFolder(tmp_path, ASKED).open()
    assert not left(ImageFolder(tmp_path, ASKED))


def test_images_without_a_request_are_left_alone(folder):
    with folder.writer() as writer:
        writer.write(0, some_images())
    (folder.path / REQUEST).unlink()
    with pytest.raises(UserError, match="other files"):
        folder.open()
    assert folder.has(range(5))


def test_processes_that_start_together_fill_one_folder(tmp_path):
    for attempt in range(10):
        path, children = tmp_path / str(attempt), []
        for number in range(4):
            children.append(os.fork())
            if not children[-1]:
                fill_and_exit(ImageFolder(path, ASKED), number)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        assert ImageFolder(path, ASKED).has(range(20))


def fill_and_exit(folder: ImageFolder, number: int) -> None:
    try:
        folder.open()
        with folder.writer() as writer:
            writer.write(5 * number, some_images())
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_a_file_system_without_locks_holds_one(tmp_path, monkeypatch):
    """NFS refuses to lock folders: nothing is taken for a leftover, and writers do not wait."""
    monkeypatch.setattr("mpq_export.leftovers.fcntl.flock", refuse)
    folder = ImageFolder(tmp_path / "out", ASKED)
    folder.open()
    with folder.writer() as writer:
        folder.open()
        assert len(left(folder)) == 1
        writer.write(0, some_images())
    assert folder.has(range(5))
    assert not left(folder)


def refuse(*_):
    raise OSError(errno.EBADF, "Bad file descriptor")


def test_a_truncated_image_counts_as_missing(folder):
    with folder.writer() as writer:
        writer.write(0, some_images())
    path = folder.image(2)
    data = path.read_bytes()
    for length in (len(data) - 1, len(data) // 2, 0):
        path.write_bytes(data[:length])
        assert folder.has(range(2))
        assert not folder.has(range(2, 3))
    with pytest.raises(UserError, match="redrawn"):
        folder.read(range(2, 3))


def test_images_of_different_sizes_are_refused(folder):
    with folder.writer() as writer:
        writer.write(0, some_images(1))
        writer.write(1, some_images(1)[:, :, :2])
    with pytest.raises(UserError, match="different sizes"):
        folder.read(range(2))


def test_what_a_dead_writer_left_is_removed_and_what_a_living_one_has_is_not(folder):
    child = os.fork()
    if not child:
        with folder.writer():
            os._exit(9)
    os.waitpid(child, 0)
    with folder.writer() as alive:
        assert len(left(folder)) == 2
        ImageFolder(folder.path, ASKED).open()
        alive.write(0, some_images())
        assert len(left(folder)) == 1
    assert not left(folder)


def left(folder: ImageFolder) -> list[Path]:
    return list(folder.path.glob(f".{IMAGES}.*"))


def test_bytes_are_rounded():
    values = np.array([0, 0.5 / 255, 0.6 / 255, 0.999, 1, 1.5, -1], np.float32)
    assert as_bytes(values).tolist() == [0, 0, 1, 255, 255, 255, 0]
