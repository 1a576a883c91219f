"""``mpq-bench`` on a tiny model, as a user runs it, and what it refuses."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from fixtures import quantized_bundle, save_pipeline, tiny_unet
from reports import images, report
from typer.testing import CliRunner

from mpq_export.bundle import read_bundle
from mpq_export.cli import bench as command
from mpq_export.errors import UserError
from mpq_export.evaluation.bench import run
from mpq_export.evaluation.bench.metrics import SENSES, Metric
from mpq_export.evaluation.bench.report import report_schema
from mpq_export.evaluation.bench.run import Finished
from mpq_export.lowering.names import Target

pytestmark = pytest.mark.slow
FEW = ["--num-images", "12", "--steps", "2", "--rounds", "2", "--threads", "1"]


def invoke(*words):
    import typer

    app = typer.Typer()
    app.command()(command.bench)
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny model of the digits family, whose images are as large as its judge takes them."""
    model = tiny_unet(channels=1, classes=10)
    model.register_to_config(sample_size=16)
    return save_pipeline(tmp_path_factory.mktemp("ckpt"), model, "DigitsPipeline")


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory) -> Path:
    """Of it, lowered for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("of-checkpoint") / "w3a4"
    return quantized_bundle(checkpoint, folder, targets=(Target.ORT,))


@pytest.fixture(scope="module")
def measured(bundle, checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bench")
    done = invoke(bundle, "--ckpt", checkpoint, *FEW, "--out", out)
    assert done.exit_code == 0, (done.output, done.exception)
    return out


def report_of(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_every_row_is_timed_drawn_and_profiled(measured):
    report = report_of(measured)
    jsonschema.validate(report, dict(report_schema()))
    assert [row["name"] for row in report["rows"]] == ["fp32", "int8", "w3a4"]
    for row in report["rows"]:
        assert row["failure"] is None
        shares = [layer["of_peak"] for layer in row["profile"]["layers"]]
        assert all(share is None or 0 < share <= 1 for share in shares)
        assert row["step"]["rounds"] == 2
        assert row["step"]["singles"] >= 2
        assert row["image"]["p50"]["value"] > row["step"]["p50"]["value"]
        assert row["peak_bytes"] > 2e7
        assert row["profile"]["run_ms"] >= row["profile"]["node_ms"] > 0
        assert row["profile"]["costs"]
    fp32, int8, packed = report["rows"]
    assert packed["activation_bits"] == 4
    assert packed["file_bytes"] < fp32["file_bytes"]
    assert packed["method"] == "mpq-dm"
    assert set(fp32["quality"]) == {"frechet_data", "accuracy", "frechet_full_precision"}
    assert fp32["quality"]["frechet_full_precision"]["high"] == 0
    assert packed["quality"]["frechet_full_precision"]["value"] > 0
    assert set(int8["quality"]) == set(packed["quality"])
    lacking = set(Metric) - set(packed["quality"])
    assert lacking <= {Metric.LPIPS, Metric.FRECHET_INCEPTION, Metric.CLIP_SCORE}
    assert {SENSES[metric].title for metric in lacking} <= set(report["not_measured"])


def test_layers_are_matched_to_modules_in_every_row(measured, bundle):
    names = set(read_bundle(bundle).layers)
    fp32, int8, packed = (row["profile"]["layers"] for row in report_of(measured)["rows"])
    for layers in (fp32, int8, packed):
        assert {layer["layer"] for layer in layers} == names
        # Of so small a model some layers are shorter than what the profiler adds to them.
        timed = [layer for layer in layers if layer["ms"] > 0 or layer["profiler_share"] == 1]
        assert len(timed) >= 0.9 * len(names)
    assert {layer["arithmetic"] for layer in fp32 if layer["ms"]} == {"float32"}
    assert "int8" in {layer["arithmetic"] for layer in int8}
    assert {layer["weights"] for layer in packed} == {"packed bit planes"}


def test_errors_are_along_full_precisions_trajectory(measured):
    fp32, int8, packed = report_of(measured)["rows"]
    assert fp32["errors"] == []
    assert [step["timestep"] for step in packed["errors"]] == [999, 499]
    assert all(0 < step["relative"] < 2 for step in packed["errors"])
    assert sum(s["relative"] for s in int8["errors"]) < sum(s["relative"] for s in packed["errors"])


def test_images_are_of_the_same_noise(measured):
    drawn = {path.name.split("-")[1]: path for path in (measured / "cache").glob("images-*")}
    fp32, int8 = (np.load(drawn[name] / "images.npy") for name in ("fp32", "int8"))
    assert fp32.shape == int8.shape == (12, 1, 16, 16)
    assert 0 < np.abs(fp32 - int8).mean() < 0.1


def test_what_is_finished_is_not_done_again(measured, bundle, checkpoint):
    before = {path: path.stat().st_mtime_ns for path in (measured / "cache").iterdir()}
    old = report_of(measured)
    done = invoke(bundle, "--ckpt", checkpoint, *FEW, "--out", measured)
    assert done.exit_code == 0, (done.output, done.exception)
    assert {path: path.stat().st_mtime_ns for path in (measured / "cache").iterdir()} == before
    new = report_of(measured)
    assert [row["step"] for row in new["rows"]] == [row["step"] for row in old["rows"]]


def test_what_is_kept_keeps_the_environment_it_was_measured_in(
    measured, bundle, checkpoint, monkeypatch
):
    (path,) = (measured / "cache").glob("times-*.json")
    old = path.read_text(encoding="utf-8")
    kept = json.loads(old)
    assert kept["before"]["processor"] == kept["after"]["processor"]
    assert 0 <= kept["others"] <= 1
    kept |= {"others": 0.75}
    kept["before"]["load average"], kept["after"]["load average"] = "7.77", "8.88"
    path.write_text(json.dumps(kept), encoding="utf-8")
    try:
        done = invoke(bundle, "--ckpt", checkpoint, *FEW, "--out", measured)
    finally:
        path.write_text(old, encoding="utf-8")
    assert done.exit_code == 0, (done.output, done.exception)
    report = report_of(measured)
    assert report["environment"]["load average"] == "7.77, then 8.88"
    assert report["notes"][0].startswith("Other programs took 75%")


@pytest.mark.parametrize(("rows", "code"), [(5, 1), (4, 0)])
def test_a_row_that_failed_is_exit_code_1(digits_folder, tmp_path, monkeypatch, rows, code):
    some = report().model_copy(update={"rows": report().rows[:rows]})
    monkeypatch.setattr(run, "run_bench", lambda *words: Finished(some, images()))
    assert invoke(digits_folder, "--out", tmp_path).exit_code == code
    assert len(report_of(tmp_path)["rows"]) == rows


def test_a_runtime_that_cannot_open_fails_its_row_alone(bundle, tmp_path):
    """The bundle is not lowered for TensorRT: with a GPU or without, there is no engine."""
    done = invoke(bundle, "--runtime", "ort", "--runtime", "trt", *FEW, "--out", tmp_path)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    works, fails = report_of(tmp_path)["rows"]
    assert works["failure"] is None
    assert works["step"]["rounds"] == 2
    assert fails["failure"]
    assert fails["failure"].count("libcuda.so.1)") <= 1
    assert fails["step"] is None
    assert fails["quality"] == {}
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--baselines", "fp32"], "Give --ckpt"),
        (["--baselines", "int9"], "no baseline int9"),
        (["--baselines", "int8"], "Write fp32,int8"),
        (["--threads", "9999"], "9999 threads"),
        (["--steps", "5000"], "5000 sampling steps are not possible"),
        (["--prompt", "a fox"], "neither prompts nor guidance"),
    ],
)
def test_mistakes_are_explained(digits_folder, tmp_path, words, said):
    done = invoke(digits_folder, *words, "--out", tmp_path)
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_is_refused_before_any_work(digits_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run_bench", lambda *words: pytest.fail("work was begun"))
    (tmp_path / "file").touch()
    done = invoke(digits_folder, "--out", tmp_path / "file")
    assert isinstance(done.exception, UserError)
    assert "The report cannot be written" in str(done.exception)


def test_bundles_of_different_models_are_refused(digits_folder, lowered_folder, tmp_path):
    done = invoke(digits_folder, lowered_folder, "--out", tmp_path)
    assert isinstance(done.exception, UserError)
    assert "different models" in str(done.exception)


def test_another_models_checkpoint_is_refused(digits_folder, pipeline_folder, tmp_path):
    done = invoke(digits_folder, "--ckpt", pipeline_folder, *FEW, "--out", tmp_path)
    assert isinstance(done.exception, UserError)
    assert "of another architecture" in str(done.exception)


def test_a_bundle_twice_has_no_names(digits_folder, tmp_path):
    done = invoke(digits_folder, digits_folder, "--out", tmp_path)
    assert isinstance(done.exception, UserError)
    assert "Two rows would be called" in str(done.exception)
