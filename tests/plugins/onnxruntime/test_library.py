"""Finding the library, registering it, running without it, and several threads at once."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from golden.draws import Draws
from golden.layer_cases import random_layer
from lowering.models import packed_model

from mpq_export.bundle import read_bundle
from mpq_export.core.integer_reference import ConvGeometry, run_layer
from mpq_export.errors import RuntimeUnavailable
from mpq_export.lowering.nodes import is_mpq
from mpq_export.runtimes import native_library as module
from mpq_export.runtimes import selection
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.native_library import (
    KERNELS_VARIABLE,
    chosen_kernels,
    kernel_names,
    native_library,
)
from mpq_export.runtimes.onnxruntime_denoiser import (
    OnnxRuntimeDenoiser,
    graph_feeds,
    runnable_graph,
)
from mpq_export.runtimes.selection import select

from .sessions import kernels_here, native_session, require_library


@pytest.fixture
def no_library(monkeypatch):
    """A package that was installed without a compiler."""
    monkeypatch.setattr(module, "_FILE", "mpq_export/native/not_built.so")


@pytest.fixture
def library():
    """The library's path."""
    require_library()
    return native_library()


def test_the_library_is_listed_by_the_installed_package(library):
    files = {str(file) for file in distribution("mpq-export").files}
    assert f"mpq_export/native/{library.name}" in files


def test_it_exports_four_functions_and_nothing_else(library):
    tool = shutil.which("nm")
    if tool is None and not os.environ.get("CI"):
        pytest.skip("nm is not installed")
    listing = subprocess.run(
        [tool, "-D", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[2] for line in listing.splitlines() if line.split()[1] == "T"}
    assert names == {"RegisterCustomOps", "MpqKernelNames", "MpqSpin", "MpqSpinFloat"}


def test_a_runtime_that_is_too_old_is_told_so(library):
    """An ONNX Runtime without version 17 of the API still has CreateStatus, slot 0."""
    messages = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    def create_status(code, message):
        messages.append((code, message.decode()))
        return 1

    api = (ctypes.c_void_p * 1)(ctypes.cast(create_status, ctypes.c_void_p))
    asked = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    def get_api(version):
        asked.append(version)
        return ctypes.addressof(api) if version == 1 else None

    base = (ctypes.c_void_p * 2)(ctypes.cast(get_api, ctypes.c_void_p), None)
    register = ctypes.CDLL(str(library)).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) == 1
    assert asked == [17, 1]
    assert messages == [(1, "the mpq operators need ONNX Runtime 1.17 or newer")]


def test_kernels_are_the_fastest_unless_one_is_named(library, monkeypatch):
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    assert chosen_kernels() == kernel_names()[0]
    assert kernel_names()[-1] == "portable"
    monkeypatch.setenv(KERNELS_VARIABLE, "portable")
    assert chosen_kernels() == "portable"
    assert select(Runtime.ORT).note == "native kernels portable"
    monkeypatch.setenv(KERNELS_VARIABLE, "sse9")
    with pytest.raises(RuntimeUnavailable, match=r"sse9.*MPQ_CPU_KERNELS.*portable"):
        select(Runtime.ORT)


# --- with and without it ------------------------------------------------------------------------


def test_ort_keeps_the_packed_nodes_and_drops_their_bodies(library, lowered_folder):
    bundle = read_bundle(lowered_folder)
    graph = runnable_graph(bundle, Runtime.ORT)
    assert not graph.model.functions
    packed = [node.name for node in graph.model.graph.node if is_mpq(node)]
    assert sorted(packed) == sorted(bundle.layers)
    denoiser = OnnxRuntimeDenoiser(bundle, Runtime.ORT)
    assert denoiser.selection.runs is Runtime.ORT
    assert denoiser.selection.note.startswith("native kernels ")


def test_the_session_runs_the_nodes_themselves(library, lowered_folder, tmp_path):
    """ONNX Runtime did not inline or rewrite them: its profile has one entry for each."""
    import onnxruntime

    bundle = read_bundle(lowered_folder)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    # The file as it lies, its function bodies included.
    profiled = onnxruntime.InferenceSession(
        bundle.path / "onnx" / "ort" / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    labels = {"class_labels": np.zeros(1, np.int64)}
    sample = np.zeros((1, 2, 8, 8), np.float32)
    profiled.run(None, graph_feeds(bundle.model_config, bundle.timesteps, sample, 20.0, labels))
    text = Path(profiled.end_profiling()).read_text(encoding="utf-8")
    assert all(f'"{name}_kernel_time"' in text for name in bundle.layers)


def test_without_it_ort_is_rewritten_and_says_so(no_library, lowered_folder):
    bundle = read_bundle(lowered_folder)
    chosen = select(Runtime.ORT)
    assert chosen.runs is Runtime.ORT_PORTABLE
    assert "no C++17 compiler" in str(chosen)
    denoiser = OnnxRuntimeDenoiser(bundle, Runtime.ORT)
    assert denoiser.selection == chosen
    domains = {node.domain for node in runnable_graph(bundle, Runtime.ORT).model.graph.node}
    assert domains == {"", "com.microsoft"}
    labels, sample = np.zeros(1, np.int64), np.ones((1, 2, 8, 8), np.float32)
    portable = OnnxRuntimeDenoiser(bundle, Runtime.ORT_PORTABLE)
    np.testing.assert_array_equal(
        denoiser(sample, 20, class_labels=labels), portable(sample, 20, class_labels=labels)
    )


def test_its_absence_is_an_error_with_a_way_out(no_library, monkeypatch):
    with pytest.raises(RuntimeUnavailable, match="Install a C\\+\\+ compiler"):
        native_library()

    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", not_installed)
    with pytest.raises(RuntimeUnavailable, match="imported but not installed"):
        native_library()


def test_a_library_of_another_machine_is_an_error_with_a_way_out(
    lowered_folder, tmp_path, monkeypatch
):
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"\x7fELF of another machine")
    monkeypatch.setattr(module, "_FILE", str(broken))
    with pytest.raises(RuntimeUnavailable, match="cannot be loaded"):
        kernel_names()
    monkeypatch.setattr(selection, "chosen_kernels", lambda: "portable")
    with pytest.raises(RuntimeUnavailable, match="--runtime ort-portable"):
        OnnxRuntimeDenoiser(read_bundle(lowered_folder), Runtime.ORT)


# --- threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kernels", [kernels_here()[0], kernels_here()[-1]])
def test_threads_share_a_session(kernels, dtype):
    """Calls of different sizes and steps at once, on two threads of the session's own each."""
    from lowering.models import X_TYPES

    geometry = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
    layer = random_layer(Draws(4), [3, 4, 2] * 11, 4, 20, geometry)
    model = packed_model(layer, [None] * 4, X_TYPES[np.dtype(dtype)])
    session = native_session(model, kernels)

    def differing(index: int) -> int:
        shape = (1 + index % 2, 20, 5 + index % 7, 6 + index % 5)
        x, step = Draws(index).bell(shape).astype(dtype), index % 3
        expected = run_layer(layer, x, step).output.astype(dtype)
        feeds = {"X": x, "step_index": np.array([step], np.int32)}
        return sum(not np.array_equal(session.run(None, feeds)[0], expected) for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(differing, range(40))) == 0


# --- a program that wants other arithmetic ------------------------------------------------------

_DENORMALS = """
import sys
import numpy as np, onnxruntime
model, library, x, y, threads = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
options.add_session_config_entry("session.set_denormal_as_zero", "1")
options.register_custom_ops_library(library)
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
feeds = {"X": np.load(x), "step_index": np.zeros(1, np.int32)}
np.save(y, session.run(None, feeds)[0])
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_count_though_the_session_sets_them_to_zero(library, tmp_path, threads):
    """ONNX Runtime heeds the first session's setting for a whole process: this has its own."""
    layer = random_layer(Draws(1), [3] * 5, 4, 96)
    layer = replace(
        layer,
        act_scale=np.full_like(layer.act_scale, 2.0**-8),
        input_factor=np.full(96, 2.0**121, np.float32),
    )
    x = (np.random.default_rng(0).integers(-3, 4, (400, 96)) * 2.0**-129).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    model = packed_model(layer, [None] * 2)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    files = [str(tmp_path / "model.onnx"), str(library), str(tmp_path / "x.npy")]
    y = tmp_path / "y.npy"
    subprocess.run(
        [sys.executable, "-c", _DENORMALS, *files, str(y), str(threads)], check=True, timeout=60
    )
    np.testing.assert_array_equal(np.load(y), run_layer(layer, x, 0).output)
