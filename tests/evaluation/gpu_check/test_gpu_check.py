"""``make gpu-check`` on the emulated GPU: the same code, tiny shapes."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest
import torch

from mpq_export.evaluation.gpu_check import __main__ as command
from mpq_export.evaluation.gpu_check import exactness, place, products
from mpq_export.evaluation.gpu_check.report import markdown, passed


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


def test_weights_that_fit_the_cache_are_named(emulated):
    result, table = emulated
    assert "fit the last cache" not in table
    warm = json.loads(json.dumps(result))
    warm["kernels"]["rows"][1]["packed_weights_fit_cache"] = True
    assert "fit the last cache: linear, 32, M 40." in markdown(warm)


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
