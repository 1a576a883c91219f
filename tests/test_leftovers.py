"""Half-written folders: locked, told from those in use, and removed."""

import errno
import os

import pytest

from mpq_export.leftovers import locked_folder, locked_stage, remove_leftovers


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out"


def stages(target):
    return sorted(target.parent.glob(f".{target.name}.*"))


def test_a_stage_in_use_stays_and_a_left_one_goes(target):
    with locked_stage(target) as stage:
        remove_leftovers(target)
        assert stages(target) == [stage]
    remove_leftovers(target)
    assert not stages(target)


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK, errno.ENOTSUP])
def test_where_nothing_is_locked_nothing_is_removed(target, monkeypatch, code):
    """As on NFS: a writer gets its stage at once, and no one takes it for a leftover."""

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("mpq_export.leftovers.fcntl.flock", refuse)
    with locked_stage(target) as stage:
        remove_leftovers(target)
        assert stages(target) == [stage]
    with pytest.raises(BlockingIOError), locked_folder(target):
        pass


def test_a_stage_that_another_process_takes_is_made_anew(target, monkeypatch):
    """Between making and locking it lies there without a lock, as a leftover does."""
    from mpq_export import leftovers

    really, taken = leftovers._opened, []

    def opened(stage):
        if len(taken) < 2:
            taken.append(stage)
            stage.rmdir()
        return really(stage)

    monkeypatch.setattr(leftovers, "_opened", opened)
    with locked_stage(target) as stage:
        assert stage.is_dir()
        assert stage not in taken
    assert len(taken) == 2


def test_a_folder_that_cannot_be_opened_is_an_error(target, monkeypatch):
    def too_many(_stage):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("mpq_export.leftovers._opened", too_many)
    with pytest.raises(OSError, match="Too many"), locked_stage(target):
        pass
