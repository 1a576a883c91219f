"""Ranges of an engine's free axes, its names and its progress."""

from __future__ import annotations

import pytest

from mpq_export.conditions import ClassLabels, Embedding, Typical
from mpq_export.errors import BundleError, RuntimeUnavailable, UserError
from mpq_export.files import write_json
from mpq_export.runtimes.cuda.gpu import Gpu
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt import installed as installing
from mpq_export.runtimes.tensorrt.engine_files import EngineIdentity, read_record
from mpq_export.runtimes.tensorrt.installed import Installed, usual_runtime
from mpq_export.runtimes.tensorrt.memory import available_mb, likely_peak_mb, workspace_bytes
from mpq_export.runtimes.tensorrt.phases import PhaseTree
from mpq_export.runtimes.tensorrt.shapes import (
    Range,
    default_ranges,
    parse_shapes,
    profile,
)

TEXT = {"sample": ("batch", 4, 64, 64), "timestep": (1,), "text": ("batch", "tokens", 768)}
CONDITIONS = (Embedding("text", (77, 768), free_length=True),)
DEFAULTS = default_ranges(TEXT, CONDITIONS)
ORIN = Gpu(0, "Orin", (8, 7), 8)


def test_defaults_are_some_images_and_the_models_own_tokens() -> None:
    assert {"batch": Range(1, 1, 4), "tokens": Range(1, 77, 77)} == DEFAULTS
    labels = {"sample": ("batch", 1, 8, 8), "labels": ("batch",)}
    assert default_ranges(labels, (ClassLabels("labels", 10),)) == {"batch": Range(1, 1, 4)}
    both = (*CONDITIONS, Typical("mask", (0.0,) * 120, free_length=True))
    assert default_ranges(TEXT, both)["tokens"] == Range(1, 120, 120)


def test_another_free_axis_is_refused() -> None:
    with pytest.raises(RuntimeUnavailable, match=r"free axes.*height"):
        default_ranges({"sample": ("batch", 4, "height", 64)}, ())


@pytest.mark.parametrize(
    ("text", "batch", "tokens"),
    [
        ("", (1, 1, 4), (1, 77, 77)),
        ("batch:2", (2, 2, 2), (1, 77, 77)),
        ("batch:1..8", (1, 8, 8), (1, 77, 77)),
        ("batch:1..2..8,tokens:77", (1, 2, 8), (77, 77, 77)),
        ("sample:2x4x64x64", (2, 2, 2), (1, 77, 77)),
        (" sample:1..2..4x4x64x64 , text:1..2..4x77x768", (1, 2, 4), (77, 77, 77)),
    ],
)
def test_shapes(text: str, batch: tuple[int, ...], tokens: tuple[int, ...]) -> None:
    ranges = parse_shapes(text, TEXT, DEFAULTS)
    assert ranges == {"batch": Range(*batch), "tokens": Range(*tokens)}
    assert profile(TEXT, ranges) == {
        "sample": tuple((size, 4, 64, 64) for size in batch),
        "text": tuple((b, t, 768) for b, t in zip(batch, tokens, strict=True)),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch", "no axis or input"), ("batch:", "neither a number"), ("batch:0", "does not rise"),
        ("batch:4..2", "does not rise"), ("batch:1..2..3..4", "neither"), ("batch:x", "neither"),
        ("images:2", "no axis or input of the model: sample:batchx4x64x64"),
        ("sample:2x3x64x64", "axis of 4 is fixed"), ("sample:2x4x64", "no axis or input"),
        ("sample:2x4x64x64,text:3x77x768", "another range before"),
        ("batch:99999999999", "neither a number"), ("batch:٣", "neither|does not rise"),
    ],
)  # fmt: skip
def test_shapes_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_shapes(text, TEXT, DEFAULTS)


def identity(**changes: object) -> EngineIdentity:
    own = {
        "model": "digits", "bits": "w3a4", "target": "trt", "shapes": {"batch": [1, 1, 4]},
        "runtime": "trt", "tensorrt": "10.3.0", "capabilities": ["87"], "plugin": "1.mma-1",
        "multiprocessors": 8, "memory_limit_mb": None, "builder": "bindings", "settings": 1,
        "model_files": {"model.onnx": "a" * 64},
    }  # fmt: skip
    return EngineIdentity(**{**own, **changes})


def test_a_name_says_what_decides_the_engine() -> None:
    assert identity().name.startswith("digits-w3a4-batch1to4-trt10.3.0-sm87-plugin1.mma-1-")
    changes = [
        {"bits": "w4a8"}, {"target": "trt-int8"}, {"shapes": {"batch": [1, 2, 4]}},
        {"tensorrt": "10.3.1"}, {"runtime": "trt-rtx"}, {"capabilities": ["86"]},
        {"plugin": "1.mma-2"}, {"multiprocessors": 16}, {"memory_limit_mb": 4000},
        {"model_files": {"model.onnx": "b" * 64}}, {"builder": "trtexec"}, {"settings": 2},
    ]  # fmt: skip
    names = {identity(**change).name for change in changes}
    assert len(names | {identity().name}) == 1 + len(changes)


def test_a_machine_that_it_does_not_fit_is_named() -> None:
    here = Installed(Runtime.TRT, "10.3.0")
    assert identity().refusal(here, ORIN) is None
    assert identity().refusal(here, "there is no GPU") == "there is no GPU"
    assert "version 10.7.0" in identity(tensorrt="10.7.0").refusal(here, ORIN)
    assert "Orin has 87" in identity(capabilities=["86", "89"]).refusal(here, ORIN)


def test_gpus_that_an_engine_is_built_for() -> None:
    rtx, own = Installed(Runtime.TRT_RTX, "1.7"), Installed(Runtime.TRT, "10.3")
    assert "121" in rtx.capabilities("no GPU")
    assert own.capabilities(ORIN) == ("87",)
    with pytest.raises(RuntimeUnavailable, match=r"does not know this GPU.*87"):
        rtx.capabilities(ORIN)
    with pytest.raises(RuntimeUnavailable, match=r"only on the GPU that runs them"):
        own.capabilities("no GPU")


@pytest.mark.parametrize(
    "content",
    [{}, {"format_version": 1}, {"identity": {"model": "../../etc"}}, {"identity": []}],
)
def test_a_record_that_is_none(tmp_path, content: dict) -> None:
    write_json(tmp_path / "engine.json", content)
    with pytest.raises(BundleError, match=r"malformed"):
        read_record(tmp_path / "engine.json")


@pytest.mark.parametrize("capabilities", [[], ["8/7"], ["../../x"]])
def test_a_record_cannot_name_a_file_elsewhere(tmp_path, capabilities: list[str]) -> None:
    record = {
        "format_version": 2,
        "identity": {**identity().model_dump(), "capabilities": capabilities},
        "sha256": "a" * 64, "size": 1, "constants": 1, "seconds": 1.0, "peak_mb": 1,
    }  # fmt: skip
    write_json(tmp_path / "engine.json", record)
    with pytest.raises(BundleError):
        read_record(tmp_path / "engine.json")


def test_phases_within_phases_are_one_share() -> None:
    tree = PhaseTree()
    assert tree.done == 0
    tree.start("all", None, 4)
    tree.complete("all", 0)
    assert tree.done == pytest.approx(0.25)
    tree.start("part", "all", 2)
    tree.complete("part", 0)
    assert tree.done == pytest.approx(0.25 + 0.25 / 2)
    tree.finish("part")
    assert tree.done == pytest.approx(0.375), "nothing is taken back"
    tree.complete("all", 1)
    assert tree.done == pytest.approx(0.5)
    tree.start("again", "again", 1)  # a phase within itself
    tree.complete("unknown", 3)
    assert tree.done == pytest.approx(0.5)
    tree.finish("all")
    assert tree.done == 1


def test_swap_space_is_memory_that_a_build_can_take(tmp_path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000000 kB\nMemAvailable: 1000000 kB\nSwapTotal: 9000000 kB\n")
    assert available_mb(meminfo) == 1000
    meminfo.write_text("MemAvailable: 1000000 kB\nSwapFree: 8000000 kB\n")
    assert available_mb(meminfo) == 9000
    meminfo.write_text("SwapFree: 8000000 kB\n")
    assert available_mb(meminfo) is None
    assert available_mb(tmp_path / "none") is None


def test_a_limit_leaves_the_rest_to_the_layers() -> None:
    assert workspace_bytes(None, 10**9) is None
    assert workspace_bytes(8000, 10**8) == (8000 - likely_peak_mb(10**8)) << 20
    assert workspace_bytes(1, 10**9) == 64 << 20


def test_where_nothing_can_build_it_says_where_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(runtime: Runtime) -> Installed:
        raise RuntimeUnavailable("It is not installed", where=runtime.value)

    monkeypatch.setattr(installing, "installed", missing)
    with pytest.raises(RuntimeUnavailable, match=r"Copy the bundle to the machine.*mpq-build"):
        usual_runtime(ORIN)
