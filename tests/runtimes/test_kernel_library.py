"""Where the kernels' library comes from: named, compiled once, or not to be had."""

from __future__ import annotations

import logging
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from plugins.kernels.emulated import emulated_kernels

from mpq_export.errors import RuntimeUnavailable
from mpq_export.runtimes.gpu_kernels import cache_folder, sources
from mpq_export.runtimes.gpu_kernels.interface import KernelLibrary
from mpq_export.runtimes.gpu_kernels.library_file import (
    LIBRARY_VARIABLE,
    named_library,
    nvcc_library,
    nvcc_program,
)

ORIN = (8, 7)


def gpu_library(capability):
    """What nvcc makes."""
    nvcc = nvcc_program()
    assert nvcc is not None
    return nvcc_library(nvcc, capability).file()


@pytest.mark.usefixtures("nvcc")
def test_it_is_compiled_once_for_this_gpu_and_that_is_said(home, caplog):
    with caplog.at_level(logging.WARNING):
        library = gpu_library(ORIN)
    assert library.is_relative_to(home / "cache" / "mpq-export")
    assert "compute_87,code=sm_87" in library.read_text()
    (said,) = caplog.messages
    assert "compute capability 8.7: once" in said
    assert str(home / "cache") in said
    assert gpu_library(ORIN) == library
    assert (home / "calls").read_text().split() == ["once"]
    assert gpu_library((8, 9)) != library
    assert {path.suffix for path in library.parent.iterdir()} == {".so", ".lock"}


def test_a_library_is_named_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "own.so").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LIBRARY_VARIABLE, "own.so")
    assert named_library() == tmp_path / "own.so"


def test_another_compiler_is_another_library(home, nvcc, monkeypatch):
    """One whose runtime the driver does not take can be replaced."""
    first = gpu_library(ORIN)
    nvcc.rename(home / "bin" / "nvcc-12")
    monkeypatch.setenv("NVCC", str(home / "bin" / "nvcc-12"))
    assert gpu_library(ORIN) != first
    monkeypatch.setenv("NVCC", "")
    assert nvcc_program() is None


@pytest.mark.usefixtures("nvcc")
def test_a_folder_that_others_can_write_to_is_not_used(home):
    folder = gpu_library(ORIN).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(RuntimeUnavailable, match="another user's, or all can write"):
        gpu_library(ORIN)


@pytest.mark.usefixtures("nvcc")
def test_other_users_folders_are_not_used(home, monkeypatch):
    gpu_library(ORIN)
    owner = os.geteuid()
    monkeypatch.setattr(
        cache_folder, "os", SimpleNamespace(geteuid=lambda: owner + 1, environ=os.environ)
    )
    if owner == 0:  # what root owns is anyone's to use
        assert gpu_library(ORIN).is_file()
        os.chown(home / "cache" / "mpq-export", 12345, -1)
    with pytest.raises(RuntimeUnavailable, match="another user's"):
        gpu_library(ORIN)


def test_places_that_are_none_are_not_taken(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_folder.cache_folder() == Path("/somewhere/.cache/mpq-export")

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache_folder.Path, "home", nowhere)
    with pytest.raises(RuntimeUnavailable, match="XDG_CACHE_HOME is not set"):
        cache_folder.cache_folder()


@pytest.mark.usefixtures("nvcc")
def test_those_who_come_together_compile_once(home):
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: gpu_library(ORIN), range(4)))
    assert len(found) == 1
    assert (home / "calls").read_text().split() == ["once"]


def test_other_sources_are_another_library(home, nvcc, monkeypatch):
    first = gpu_library(ORIN)
    copy = home / "kernels"
    subprocess.run(["cp", "-r", sources.kernel_sources(), copy], check=True)
    monkeypatch.setattr(sources, "_CHECKOUT", copy)
    assert gpu_library(ORIN) == first
    (copy / "src" / "new.h").write_text("")
    assert gpu_library(ORIN) != first


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(home, nvcc):
    nvcc.write_text("#!/bin/sh\necho 'error: no such architecture' >&2\nexit 1\n")
    with pytest.raises(RuntimeUnavailable, match="no such architecture"):
        gpu_library(ORIN)
    assert not list((home / "cache").rglob("*.so"))


def test_a_named_library_is_taken_as_it_is(home, monkeypatch):
    (home / "mine.so").write_text("")
    assert named_library() is None
    monkeypatch.setenv(LIBRARY_VARIABLE, str(home / "mine.so"))
    assert named_library() == home / "mine.so"
    monkeypatch.setenv(LIBRARY_VARIABLE, str(home / "gone.so"))
    with pytest.raises(RuntimeUnavailable, match=r"gone\.so"):
        named_library()


def test_what_is_no_library_of_ours_is_refused(home):
    (home / "text.so").write_text("text")
    for path in (home / "text.so", home / "gone.so"):
        with pytest.raises(RuntimeUnavailable, match="cannot be used"):
            KernelLibrary(path)


def test_other_versions_are_refused(monkeypatch):
    monkeypatch.setattr("mpq_export.runtimes.gpu_kernels.interface.LAYOUT", "mma-9")
    with pytest.raises(RuntimeUnavailable, match="layout mma-1; 3 and mma-9 are needed"):
        KernelLibrary(emulated_kernels())
