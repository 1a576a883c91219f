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
from mpq_export.evaluation.doctor.gpu_kernels import gpu_kernels_finding
from mpq_export.packages import installed_version
from mpq_export.runtimes.gpu_kernels import compiled, library_file
from mpq_export.runtimes.gpu_kernels.interface import KernelLibrary
from mpq_export.runtimes.gpu_kernels.library_file import LIBRARY_VARIABLE, gpu_library

ORIN = (8, 7)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without compilers who has compiled nothing yet; programs go into ``bin``."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(compiled, "_USUAL_FOLDERS", ())
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def nvcc(home):
    """A compiler that writes its arguments into what it is to make, and counts its calls."""
    program = home / "bin" / "nvcc"
    program.write_text(
        f'#!/bin/sh\necho once >> {home}/calls\nall="$*"\n'
        'while [ "$1" != -o ]; do shift; done\necho "$all" > "$2"\n'
    )
    program.chmod(0o755)
    return program


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


def test_another_compiler_is_another_library(home, nvcc, monkeypatch):
    """One whose runtime the driver does not take can be replaced."""
    first = gpu_library(ORIN)
    nvcc.rename(home / "bin" / "nvcc-12")
    monkeypatch.setenv("NVCC", str(home / "bin" / "nvcc-12"))
    assert gpu_library(ORIN) != first
    monkeypatch.setenv("NVCC", "")
    with pytest.raises(RuntimeUnavailable, match="nvcc was not found"):
        gpu_library(ORIN)


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
        library_file, "os", SimpleNamespace(geteuid=lambda: owner + 1, environ=os.environ)
    )
    if owner == 0:  # what root owns is anyone's to use
        assert gpu_library(ORIN).is_file()
        os.chown(home / "cache" / "mpq-export", 12345, -1)
    with pytest.raises(RuntimeUnavailable, match="another user's"):
        gpu_library(ORIN)


def test_places_that_are_none_are_not_taken(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/somewhere")
    assert library_file.cache_folder() == Path("/somewhere/.cache/mpq-export")

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(library_file.Path, "home", nowhere)
    with pytest.raises(RuntimeUnavailable, match="XDG_CACHE_HOME is not set"):
        library_file.cache_folder()


@pytest.mark.usefixtures("nvcc")
def test_those_who_come_together_compile_once(home):
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: gpu_library(ORIN), range(4)))
    assert len(found) == 1
    assert (home / "calls").read_text().split() == ["once"]


def test_other_sources_are_another_library(home, nvcc, monkeypatch):
    first = gpu_library(ORIN)
    copy = home / "kernels"
    subprocess.run(["cp", "-r", library_file.kernel_sources(), copy], check=True)
    monkeypatch.setattr(library_file, "_CHECKOUT", copy)
    assert gpu_library(ORIN) == first
    (copy / "src" / "new.h").write_text("")
    assert gpu_library(ORIN) != first


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(home, nvcc):
    nvcc.write_text("#!/bin/sh\necho 'error: no such architecture' >&2\nexit 1\n")
    with pytest.raises(RuntimeUnavailable, match="no such architecture"):
        gpu_library(ORIN)
    assert not list((home / "cache").rglob("*.so"))


def test_without_a_compiler_the_error_says_what_to_do(home, monkeypatch):
    monkeypatch.setenv("PATH", str(home / "bin"))
    with pytest.raises(RuntimeUnavailable, match=f"nvcc was not found.*{LIBRARY_VARIABLE}"):
        gpu_library(ORIN)


@pytest.mark.usefixtures("home")
def test_old_gpus_are_refused_by_their_number():
    with pytest.raises(RuntimeUnavailable, match=r"7\.5; they need 8\.0"):
        gpu_library((7, 5))


def test_a_named_library_is_taken_as_it_is(home, monkeypatch):
    (home / "mine.so").write_text("")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(home / "mine.so"))
    assert gpu_library(ORIN) == home / "mine.so"
    monkeypatch.setenv(LIBRARY_VARIABLE, str(home / "gone.so"))
    with pytest.raises(RuntimeUnavailable, match=r"gone\.so"):
        gpu_library(ORIN)


def test_what_is_no_library_of_ours_is_refused(home):
    (home / "text.so").write_text("text")
    for path in (home / "text.so", home / "gone.so"):
        with pytest.raises(RuntimeUnavailable, match="cannot be used"):
            KernelLibrary(path)


def test_other_versions_are_refused(monkeypatch):
    monkeypatch.setattr("mpq_export.runtimes.gpu_kernels.interface.LAYOUT", "mma-9")
    with pytest.raises(RuntimeUnavailable, match="layout mma-1; 3 and mma-9 are needed"):
        KernelLibrary(emulated_kernels())


# --- what the doctor says of it -----------------------------------------------------------------


def finding(monkeypatch, version="2.13.0", has_card=True):
    monkeypatch.setattr(
        "mpq_export.evaluation.doctor.gpu_kernels.installed_version",
        lambda name: version if name == "torch" else installed_version(name),
    )
    return gpu_kernels_finding(has_card)


def test_the_doctor_says_which_of_them_it_would_be(home, monkeypatch):
    assert "no NVIDIA GPU" in finding(monkeypatch, has_card=False).detail
    assert finding(monkeypatch, has_card=False).ok
    for version, words in ((None, "not installed"), ("2.13.0+cpu", "without CUDA")):
        assert words in finding(monkeypatch, version).detail
    missing = finding(monkeypatch)
    assert not missing.ok
    assert "nvcc was not found" in missing.detail
    assert "build.sh" in missing.advice
    monkeypatch.setenv(LIBRARY_VARIABLE, str(home / "gone.so"))
    assert "not there" in finding(monkeypatch).detail


def test_the_doctor_finds_the_compiler_where_the_runtime_does(home, nvcc, monkeypatch):
    """Jetson boards have it in a folder that is not on the path."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(compiled, "_USUAL_FOLDERS", (str(home / "bin"),))
    found = finding(monkeypatch)
    assert found.ok
    assert str(nvcc) in found.detail


def test_the_doctor_compiles_nothing(home, nvcc, monkeypatch):
    found = finding(monkeypatch)
    assert found.ok
    assert "on first use" in found.detail
    assert not (home / "calls").exists()
    gpu_library(ORIN)
    assert "compiled before: kernels-sm87-" in finding(monkeypatch).detail
