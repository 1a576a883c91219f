"""``make gpu-check`` on the emulated GPU: the same code, tiny shapes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from marks import needs_tensorrt_rtx
from plugins.kernels.emulated import emulated_kernels

from mpq_export.core.integer_reference import ConvGeometry, check_layer, run_layer
from mpq_export.core.planes import unpack
from mpq_export.errors import RuntimeUnavailable
from mpq_export.evaluation.gpu_check import __main__ as command
from mpq_export.evaluation.gpu_check import engines, exactness, place, products, random_models
from mpq_export.evaluation.gpu_check.report import markdown, passed
from mpq_export.evaluation.gpu_check.rounding import mixed_planes, rounded_layer
from mpq_export.evaluation.gpu_check.turns import Subject, in_turns, prepared
from mpq_export.lowering.names import Target
from mpq_export.progress import Silence
from mpq_export.runtimes.cuda.gpu import Gpu
from mpq_export.runtimes.gpu_kernels.torch_gpu import emulated_gpu
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt import engine_builds
from mpq_export.runtimes.tensorrt.engine_builds import EngineRequest
from mpq_export.runtimes.tensorrt.installed import Installed

NEVER = float("inf")
"""A deadline."""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The JSON and the table of a whole emulated check."""
    folder = tmp_path_factory.mktemp("gpu-check")
    kept = folder / "cache" / "mpq-export"
    kept.mkdir(parents=True)
    library = emulated_kernels()
    shutil.copy(library, kept / f"emulated-kernels-{library.stem.rpartition('-')[2]}.so")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(sys, "argv", ["gpu_check", "--emulated", "--out", str(folder / "out")])
        assert command.main() == 0
    result = json.loads((folder / "out" / "gpu.json").read_text())
    return result, (folder / "out" / "gpu.md").read_text()


def test_all_parts_have_run_and_all_is_exact(emulated):
    result, _ = emulated
    assert result["exactness"]["exact"]
    assert set(result["exactness"]["cases"]) == {
        "golden", "random", "every plane count on every path",
    }  # fmt: skip
    assert result["exactness"]["driver"]["exact"]
    assert result["exactness"]["driver"]["cases"]["golden"] > 10
    assert result["tests"]["skipped"]
    (network,) = result["models"]["rows"]
    assert network["layers_exact"] == network["layers"] > 40
    (compared,) = result["engines"]["rows"]
    assert set(compared["engines"]) == {"packed", "plain INT8", "float16"}
    for name, engine in compared["engines"].items():
        (error,) = engine["relative_errors"]
        assert 0 < error < (0.005 if name == "float16" else 0.15), name
    assert passed(result)


def test_every_subject_was_timed(emulated):
    result, table = emulated
    for row in result["kernels"]["rows"]:
        assert row["packed"]["median"] > 0
        assert row["float16_over_packed"] > 0
        assert row["int8_over_packed"] > 0
    (network,) = result["models"]["rows"]
    assert len(network["ms"]) == 7
    assert all("median" in spread for spread in network["ms"].values()), network["ms"]
    assert network["over"]["packed, CUDA graph"]["packed, CUDA graph"] == 1
    assert "Emulated" in table
    assert table.count("| tiny UNet |") == 7 + 3


def test_what_is_wrong_fails_the_check(emulated):
    result, _ = emulated
    wrong = json.loads(json.dumps(result))
    wrong["exactness"] |= {"exact": False, "differing": ["conv_3x3"]}
    assert not passed(wrong)
    assert "conv_3x3" in markdown(wrong)
    driver = json.loads(json.dumps(result))
    driver["exactness"]["driver"] |= {"exact": False, "differing": ["conv_2x2"]}
    assert not passed(driver)
    assert "driver. Cases (golden" in markdown(driver)
    assert "**some differ**: conv_2x2" in markdown(driver)
    for part in ("exactness", "kernels", "models", "engines"):
        broken = {**result, part: {"failure": "RuntimeError: gone"}}
        assert not passed(broken)
        assert "RuntimeError: gone" in markdown(broken)
    for name in ("packed", "plain INT8"):
        far = json.loads(json.dumps(result))
        far["engines"]["rows"][0]["engines"][name]["relative_errors"].append(1.0)
        assert not passed(far)
        assert "| 1 |\n" in markdown(far)
    layers = json.loads(json.dumps(result))
    layers["models"]["rows"][0]["layers_exact"] -= 1
    assert not passed(layers)


@pytest.mark.parametrize("ours", [True, False])
def test_only_what_of_ours_fails_to_run_fails_the_check(emulated, ours):
    result, _ = emulated
    product = json.loads(json.dumps(result))
    product["kernels"]["rows"][0]["packed" if ours else "int8"] = {"failure": "LayerError: no"}
    network = json.loads(json.dumps(result))
    step = "packed, CUDA graph" if ours else "float16, compiled"
    network["models"]["rows"][0]["ms"][step] = {"failure": "RuntimeError: no"}
    engine = json.loads(json.dumps(result))
    kind = "packed" if ours else "float16"
    engine["engines"]["rows"][0]["engines"][kind] = {"failure": "RuntimeUnavailable: Error: no"}
    for failed in (product, network, engine):
        assert passed(failed) is not ours
        assert "Error: no" in markdown(failed)


def test_what_did_not_run_is_said(emulated):
    result, _ = emulated
    skipped = {**result, "models": {"skipped": "not installed: diffusers"}}
    assert passed(skipped)
    assert "Not run: not installed: diffusers." in markdown(skipped)


def test_without_a_gpu_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path)])
    assert command.main() == 2
    assert "--emulated" in capsys.readouterr().err


def test_kernels_are_checked_with_numpy_and_torch_alone():
    """On a machine to which only the checkout was carried: nothing else can be imported."""
    code = """
    import sys
    for name in ("diffusers", "pydantic", "safetensors", "yaml", "typer", "rich", "onnx",
                 "onnxruntime", "accelerate", "pytest", "hypothesis", "polygraphy"):
        sys.modules[name] = None
    from mpq_export.evaluation.gpu_check import __main__, exactness, place, products
    import plugins.kernels.exactness
    print("imported")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=exactness.CHECKOUT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("imported"), done.stderr


# --- parts of it --------------------------------------------------------------------------------


@pytest.fixture
def answers(monkeypatch):
    """Processes that leave these cases, and end and say as asked."""

    def answer(code, said, differing=None):
        def run(command, _seconds):
            if differing is not None:
                out = command[command.index("--out") + 1]
                with open(out, "w", encoding="utf-8") as stream:
                    json.dump({"cases": {"golden": 3}, "differing": differing}, stream)
            return code, said

        monkeypatch.setattr(exactness, "_run", run)

    monkeypatch.setattr(exactness.shutil, "which", lambda *_, **__: "compute-sanitizer")
    return answer


def test_kernels_that_differ_or_die_are_noticed(answers):
    answers(1, "", ["a"])
    assert not exactness.exactness(True, NEVER)["exact"]
    answers(-11, "no more")
    died = exactness.exactness(True, NEVER)
    assert not died["exact"]
    assert died["failure"] == "exit code -11: no more"


def test_what_the_sanitizer_found_counts_and_what_it_did_not_say_does_not(answers, monkeypatch):
    for name, words in (
        ("memcheck", "========= ERROR SUMMARY: {} errors"),
        ("racecheck", "========= RACECHECK SUMMARY: {} hazards displayed (1 errors, 1 warnings)"),
    ):
        answers(0, words.format(0), [])
        sanitizers = exactness.exactness(False, NEVER)["sanitizers"]
        assert sanitizers[name]["exact"]
        answers(0, words.format(2), [])
        sanitizers = exactness.exactness(False, NEVER)["sanitizers"]
        assert (sanitizers[name]["errors"], sanitizers[name]["exact"]) == (2, False)
        (other,) = set(sanitizers) - {name}
        assert "no summary" in sanitizers[other]["skipped"]
    answers(1, "no such device", [])
    for sanitizer in exactness.exactness(False, NEVER)["sanitizers"].values():
        assert "no such device" in sanitizer["skipped"]

    def late(command, seconds):
        raise subprocess.TimeoutExpired(command, seconds)

    monkeypatch.setattr(exactness, "_run", late)
    assert "not done after" in exactness._sanitized("memcheck", NEVER)["skipped"]
    assert "not done after" in exactness._by_driver(NEVER)["skipped"]


def test_what_takes_too_long_leaves_nothing_behind(tmp_path):
    """A sanitizer's own child would run beside what is timed next."""
    child = f"echo $$ > {tmp_path / 'child'}; exec sleep 60"
    with pytest.raises(subprocess.TimeoutExpired):
        exactness._run(["sh", "-c", f"sh -c '{child}' & wait"], 1)
    number = int((tmp_path / "child").read_text())
    stat = Path(f"/proc/{number}/stat")
    for _ in range(100):  # a process that is killed is gone when its new parent has taken notice
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the child goes on")


def test_a_sanitized_run_that_dies_is_quoted(emulated, answers):
    answers(1, "gone\nERROR SUMMARY: 0 errors")
    sanitizer = exactness._sanitized("memcheck", NEVER)
    assert not sanitizer["exact"]
    result, _ = emulated
    died = {**result, "exactness": {**result["exactness"], "sanitizers": {"memcheck": sanitizer}}}
    assert not passed(died)
    assert "**failed**: exit code 1: gone" in markdown(died)


def test_rates_that_cannot_be_measured_cost_shares_alone(emulated, monkeypatch):
    def broken(*_):
        raise RuntimeError("no int8 here")

    monkeypatch.setattr(torch, "_int_mm", broken)
    gpu = emulated_gpu(emulated_kernels())
    here = replace(place.emulated_place(), gpu=gpu)
    one = products.EMULATED_PRODUCTS[:1]
    part = products.measure_products(here, one, 1, NEVER, command.Lines())
    (row,) = part["rows"]
    assert row["packed"]["median"] > 0
    assert "int8_rate_share" not in row
    assert row["bandwidth_share"] > 0
    table = markdown({**emulated[0], "kernels": part})
    assert "Measured: no int8 rate, " in table
    assert "- int8: RuntimeError: no int8 here." in table


def test_weights_that_fit_the_cache_are_named(emulated):
    result, table = emulated
    assert "fit the last cache" not in table
    warm = json.loads(json.dumps(result))
    warm["kernels"]["rows"][1]["packed_weights_fit_cache"] = True
    assert "fit the last cache: linear, 32, M 40." in markdown(warm)


def test_marked_tests_are_found_and_their_summary_is_read(answers):
    answers(0, "......\n6 passed in 9.1s")
    assert exactness.marked_tests(False, NEVER) == {
        "passed": True, "summary": "6 passed in 9.1s",
    }  # fmt: skip
    for code, said in ((1, "1 failed, 5 passed in 9s"), (0, "6 skipped in 1s")):
        answers(code, said)
        assert not exactness.marked_tests(False, NEVER)["passed"]


def test_what_the_deadline_leaves_out_is_said(tmp_path, monkeypatch, emulated):
    """One for all parts: what begins later says so."""
    before = {name: emulated[0][name] for name in ("machine", "emulated")}
    monkeypatch.setattr(command, "_place", lambda _: place.emulated_place())
    result = command.check(command.PARTS, emulated=True, seconds=-1.0, out=tmp_path)
    assert {result[part]["skipped"] for part in command.PARTS} == {"no time was left"}
    assert result["machine"]["GPU kernels"] == "for the processor"
    assert "seconds until they were loaded" in result["machine"]
    assert (tmp_path / "gpu.md").read_text().count("Not run: no time was left.") == 5
    assert exactness._sanitized("racecheck", 0.0)["skipped"] == "no time was left"
    assert exactness._by_driver(0.0)["skipped"] == "no time was left"
    row = products.measure_products(
        place.emulated_place(), products.EMULATED_PRODUCTS[:1], 1, 0.0, command.Lines()
    )
    assert [one["skipped"] for one in row["rows"]] == ["no time was left"]
    late = {**before, "kernels": row}
    assert passed(late)
    assert "- linear, 32, M 4: no time was left." in markdown(late)


def test_processes_get_no_more_time_than_is_left(monkeypatch):
    given = []

    def run(_command, seconds):
        given.append(seconds)
        raise subprocess.TimeoutExpired("cases", seconds)

    monkeypatch.setattr(exactness, "_run", run)
    monkeypatch.setattr(exactness.shutil, "which", lambda *_, **__: "compute-sanitizer")
    for part in (exactness.exactness, exactness.marked_tests):
        with pytest.raises(subprocess.TimeoutExpired):
            part(False, time.monotonic() + 40)
    exactness._sanitized("memcheck", time.monotonic() + 40)
    exactness._by_driver(time.monotonic() + 40)
    assert len(given) == 4
    assert all(30 < seconds <= 40 for seconds in given)


@pytest.mark.parametrize(("free", "side"), [(80 << 30, 8192), (1 << 30, 4096), (1 << 16, 64)])
def test_rates_are_measured_in_a_part_of_the_free_memory(free, side):
    """Two int8 operands and int32 sums, then two buffers of a copy."""
    found, size = products.peak_sizes(free)
    assert found == side
    assert 0 < size <= 1 << 30
    assert 2 * size <= free // 4
    assert 6 * found**2 <= free // 4 or found == 64


def test_products_are_queued_behind_a_pause_and_whole_steps_are_not(monkeypatch):
    """The time to ask for a graph is not the product's; that for a step's operators is."""
    said: list[str] = []
    begun = [False, True, True]  # from the last: the GPU was there before all was asked for

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            said.append("event")

        def synchronize(self):
            pass

        def query(self):
            return bool(begun) and begun.pop()

        def elapsed_time(self, _):
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: said.append("idle"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: said.append(f"pause {cycles >> 20}"))
    clock = place.CudaEvents(torch.device("cuda"))
    assert clock.queued_ms(lambda: said.append("work")) == 2.5
    assert clock.ms(lambda: said.append("work")) == 2.5
    whole = ["idle", "event", "work", "event"]
    behind = [["idle", f"pause {megacycles}", *whole[1:]] for megacycles in (2, 4, 8)]
    assert said == [*behind[0], *behind[1], *behind[2], *whole]


@dataclass(frozen=True)
class Watched:
    """Remembers how times were taken."""

    taken: set[str]

    def ms(self, work):
        self.taken.add("ms")
        work()
        return 1.0

    def queued_ms(self, work):
        self.taken.add("queued_ms")
        work()
        return 1.0


def test_products_are_timed_without_asking_for_them():
    watched = Watched(set())
    here = replace(place.emulated_place(), stopwatch=watched)
    products.measure_products(here, products.EMULATED_PRODUCTS[:1], 1, NEVER, command.Lines())
    assert watched.taken == {"queued_ms"}


def test_subjects_take_turns_and_failures_are_kept_apart():
    calls = []

    def failing():
        calls.append("failing")
        if calls.count("failing") > 3:
            raise RuntimeError("gone")

    subjects = [
        Subject("good", lambda: calls.append("good"), units=2),
        Subject("failing", failing),
    ]
    timed = in_turns(subjects, 3, place.WallClock().ms)
    assert len(timed["good"].ms) == 3
    assert timed["failing"].ms == []
    assert timed["failing"].failure == "RuntimeError: gone"
    assert calls[:4] == ["good", "failing", "failing", "good"]
    assert prepared("it", lambda: 1 / 0).failure.startswith("it: ZeroDivisionError")


@pytest.mark.parametrize(("mean", "conv"), [(3, None), (8, None), (5, ConvGeometry((3, 3)))])
def test_rounding_gives_layers_near_their_weights(mean, conv):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((12, 36), np.float32)
    planes = np.full(12, 8) if mean == 8 else mixed_planes(12, mean)
    layer = rounded_layer(weights, planes, 8, conv)
    check_layer(layer)
    matrix = unpack(layer.weight)
    near = matrix.integers() * matrix.scale[:, None]
    assert np.abs(near - weights).max() < 0.51 * matrix.scale.max()
    assert matrix.plane_count.tolist() == planes.tolist()
    shape = (3, 36) if conv is None else (1, 4, 5, 5)
    assert np.isfinite(run_layer(layer, rng.standard_normal(shape, np.float32), 0).output).all()


def test_sizes_of_products_are_those_of_the_matrix_product():
    conv = products.Product(320, side=16)
    assert conv.sizes == (512, 320, 2880)
    assert products.Product(640, rows=77).sizes == (77, 640, 640)
    assert len({product.name for product in products.PRODUCTS}) == len(products.PRODUCTS) == 30


# --- TensorRT's engines ---------------------------------------------------------------------------


def test_without_tensorrt_engines_are_said_to_be_skipped(emulated, monkeypatch):
    def none(_):
        raise RuntimeUnavailable("No engine can be built here", why="trt: It is not installed")

    monkeypatch.setattr(engines, "usual_runtime", none)
    here = replace(place.emulated_place(), emulated=False)
    part = command._engines(here, NEVER)
    assert part == {"skipped": "No engine can be built here. trt: It is not installed"}
    result = {**emulated[0], "engines": part}
    assert passed(result)
    assert "Not run: No engine can be built here. trt: It is not installed." in markdown(result)


@pytest.fixture
def tensorrt(monkeypatch, tmp_path):
    """TensorRT's engines where they are asked for: what was built, and run by ONNX Runtime."""
    asked = []

    def build(bundle, request, progress, _warn):
        progress.note("timing")
        progress.advance(1)
        asked.append((request.target, request.runtime, request.shapes, len(bundle.layers)))
        record = SimpleNamespace(size=3_000_000, seconds=2.5)
        return SimpleNamespace(record=record)

    def opened(bundle, runtime, target):
        assert runtime is Runtime.TRT
        step = engines.EmulatedEngines().open(bundle, target, 1).predict
        return lambda **inputs: step(inputs)

    monkeypatch.setattr(engines, "gpu_here", lambda: Gpu(0, "Orin", (8, 7), 8))
    monkeypatch.setattr(engines, "usual_runtime", lambda _: Runtime.TRT)
    monkeypatch.setattr(engines, "installed", lambda runtime: Installed(runtime, "10.3.0"))
    monkeypatch.setattr(engines, "build", build)
    monkeypatch.setattr(engines, "open_tensorrt", opened)
    monkeypatch.setattr(engines.TensorRtEngines, "packed", Target.ONNX)  # what can be run here
    return asked


def test_three_engines_are_built_and_compared(tensorrt, emulated):
    networks = (replace(random_models.EMULATED_NETWORKS[0], batch=2),)
    part = engines.measure_engines(
        place.emulated_place(), engines.TensorRtEngines(NEVER), networks, 2, NEVER, command.Lines()
    )
    (row,) = part["rows"]
    assert part["tensorrt"] == "TensorRT 10.3.0"
    assert [asked[:3] for asked in tensorrt] == [
        (Target.ONNX, Runtime.TRT, "batch:2"),
        (Target.TRT_INT8, Runtime.TRT, "batch:2"),
        (Target.TRT_INT8, Runtime.TRT, "batch:2"),
    ]
    assert [asked[3] > 40 for asked in tensorrt] == [True, True, False]
    assert tensorrt[-1][3] == 0, "float16 has no packed layers"
    for engine in row["engines"].values():
        assert (engine["plan_mb"], engine["build_seconds"]) == (3, 2.5)
        assert len(engine["relative_errors"]) == 2, "one for every image"
    assert row["over"]["packed"] == 1
    assert "TensorRT 10.3.0, w3a8" in markdown({**emulated[0], "engines": part})


def test_an_engine_that_fails_leaves_the_others(tensorrt, monkeypatch, emulated):
    build = engines.build

    def refuse(bundle, request, *others):
        if request.target is Target.TRT_INT8:
            raise RuntimeUnavailable("TensorRT cannot build the model")
        return build(bundle, request, *others)

    monkeypatch.setattr(engines, "build", refuse)
    part = engines.measure_engines(
        place.emulated_place(), engines.TensorRtEngines(NEVER), random_models.EMULATED_NETWORKS,
        1, NEVER, command.Lines(),
    )  # fmt: skip
    (row,) = part["rows"]
    assert row["engines"]["packed"]["ms"]["median"] > 0
    assert "cannot build" in row["engines"]["float16"]["failure"]
    result = {**emulated[0], "engines": part}
    assert "- tiny UNet, plain INT8: TensorRT cannot build" in markdown(result)
    assert not passed(result), "plain INT8 is ours"


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_engine_whose_images_are_not_finite_has_failed(bad):
    reference = np.ones((3, 1, 2, 2), np.float32)
    found = reference.copy()
    assert engines._errors(found, reference) == {"relative_errors": [0, 0, 0]}
    found[1, 0, 0, 0] = bad
    with pytest.raises(FloatingPointError, match=r"images \[1\] of 3 are not finite"):
        engines._errors(found, reference)


def test_a_failed_engine_is_written_as_json(tensorrt, monkeypatch):
    """Not as a number that JSON does not have."""
    ones = np.ones((1, 3, 8, 8))
    monkeypatch.setattr(engines, "open_tensorrt", lambda *_: lambda **_: ones * np.inf)
    monkeypatch.setattr(engines, "_packed_prediction", lambda *_: ones)
    monkeypatch.setattr(engines, "_whole_prediction", lambda *_: ones)
    part = engines.measure_engines(
        place.emulated_place(), engines.TensorRtEngines(NEVER), random_models.EMULATED_NETWORKS,
        1, NEVER, command.Lines(),
    )  # fmt: skip
    json.dumps(part, allow_nan=False)
    (row,) = part["rows"]
    assert all("not finite" in one["failure"] for one in row["engines"].values())
    assert not passed({"engines": part})


def test_engines_leave_time_for_what_follows_the_last_build(monkeypatch, tmp_path):
    ends = []
    library = SimpleNamespace(origin="none")
    here = SimpleNamespace(gpu=SimpleNamespace(kernels=SimpleNamespace(library=library)))
    monkeypatch.setattr(command, "_place", lambda _: here)
    monkeypatch.setattr(
        command, "_engines", lambda place, end: ends.append(end) or {"skipped": "no"}
    )
    before = time.monotonic()
    command.check(["engines"], emulated=True, seconds=100.0, out=tmp_path)
    assert before + 50 < ends[0] < time.monotonic() + 60


def test_builds_end_at_the_deadline(tensorrt):
    part = engines.measure_engines(
        place.emulated_place(), engines.TensorRtEngines(0.0), random_models.EMULATED_NETWORKS, 1,
        NEVER, command.Lines(),
    )  # fmt: skip
    (row,) = part["rows"]
    assert [one["skipped"] for one in row["engines"].values()] == ["no time was left"] * 3
    assert tensorrt == []


@pytest.mark.slow
@pytest.mark.tensorrt
@needs_tensorrt_rtx
@pytest.mark.parametrize("target", [Target.TRT, Target.TRT_INT8, None])
def test_tensorrt_rtx_builds_all_three(target, tmp_path):
    """None is full precision; none of them can be run here."""
    network = random_models.EMULATED_NETWORKS[0]
    model = random_models.random_model(network.config)
    bundle = random_models.rounded_bundle(model, network.config)
    if target is None:
        bundle, target = engines._unquantised(model, bundle), Target.TRT_INT8
    bundle = replace(bundle, path=tmp_path)
    engines.export_bundle(bundle, (target,), None, Silence(), float16=True)
    request = EngineRequest(target, Runtime.TRT_RTX, "batch:1")
    record = engine_builds.build(bundle, request, Silence(), lambda _: None).record
    assert record.size > 0
