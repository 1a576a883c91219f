"""``mpq-check`` as a gate: limits, references, and files for Polygraphy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import assert_user_error, run


def test_a_limit_decides_the_exit_code_and_a_reference_stands_for_the_checkpoint(
    lowered_folder, pipeline_folder, tmp_path
):
    """The fixture has no judge, but PSNR needs the images alone."""
    reference = tmp_path / "full.safetensors"
    done = run(
        "mpq-check", lowered_folder, "--ckpt", pipeline_folder, "--gate-images", 4,
        "--min-psnr", 90, "--save-reference", reference, "--json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert not report["passed"]
    assert report["gate"]["drawn"] == {
        "scheduler": "DDIMScheduler", "steps": 3, "seed": 0, "images": 4,
    }  # fmt: skip
    assert len(report["blame"]["costs"]) == 5, "layers are restored unasked where a limit is broken"
    assert "--blame" not in done.stderr
    done = run("mpq-check", lowered_folder, "--reference", reference, "--min-psnr", 90)
    assert done.returncode == 1, done.stderr
    assert "passed: " in done.stdout
    assert "FAILED: PSNR to full precision" in done.stdout
    assert "--ckpt CHECKPOINT --blame 5" in done.stderr
    done = run("mpq-check", lowered_folder, "--reference", reference, "--min-psnr", 1, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["blame"] is None
    assert "--blame" not in done.stderr
    done = run(
        "mpq-check", lowered_folder, "--reference", reference, "--max-frechet-increase", "15%"
    )
    assert_user_error(done, "no statistics of features", "--min-psnr needs the images alone")


def test_where_no_reference_can_be_written_is_found_out_before_drawing(
    lowered_folder, tmp_path, monkeypatch
):
    from mpq_export.cli.check import check
    from mpq_export.errors import UserError

    monkeypatch.setattr(
        "mpq_export.evaluation.original.load_original", lambda *_: pytest.fail("it goes on")
    )
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "r"):
        with pytest.raises(UserError, match="The file cannot be written"):
            check(lowered_folder, ckpt="x", save_reference=path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--min-psnr", "18"], ["--ckpt", "--reference"]),
        (["--max-frechet-increase", "much"], ["no share", "15%"]),
        (["--max-accuracy-drop", "2"], ["Write 2%"]),
        (["--min-psnr", "nan"], ["no limit"]),
        (["--save-reference", "x"], ["--ckpt"]),
        (["--gate-images", "5"], ["No limit"]),
        (["--blame", "5"], ["--blame", "--ckpt"]),
        (["--save-inputs", "x"], ["--save-outputs"]),
        (["--reference", "/dev/zero", "--min-psnr", "1"], ["no reference"]),
        (["--runtime", "torch", "--save-inputs", "x", "--save-outputs", "y"], ["ONNX Runtime"]),
    ],
)
def test_mistakes_are_explained(lowered_folder, tmp_path, words, said):
    assert_user_error(run("mpq-check", lowered_folder, *words, cwd=tmp_path), *said)
    assert not list(tmp_path.iterdir())


def test_an_engine_is_judged_by_its_images_alone(lowered_folder, monkeypatch, tmp_path, capsys):
    """Its nodes cannot be read out, and are not claimed to have been."""
    from mpq_export.cli.check import check
    from mpq_export.evaluation import gate
    from mpq_export.runtimes.names import Runtime

    asked = []

    def judged(_bundle, runtime, *_):
        asked.append(runtime)
        verdict = gate.Verdict("psnr", 12.0, 18.0, False, "PSNR 12 dB", 4)
        return gate.GateReport(gate.GateDrawing("DDIMScheduler", 3, 7, 5), (verdict,))

    monkeypatch.setattr(gate, "pass_through_gate", judged)
    monkeypatch.setattr(gate, "require_answerable", lambda *_: None)
    monkeypatch.setattr("mpq_export.evaluation.reference.read_reference", lambda _path: "full")
    with pytest.raises(typer.Exit) as ended:
        check(lowered_folder, Runtime.TRT, reference=tmp_path / "r", min_psnr=18.0)
    assert ended.value.exit_code == 1
    said, remarked = capsys.readouterr()
    assert "--runtime ort --ckpt" in remarked
    assert "Nodes are not compared" in said
    assert "FAILED: PSNR 12 dB (4 images)." in said
    assert "5 images in 3 steps of DDIMScheduler, seed 7" in said
    assert "passed" not in said
    assert asked == [Runtime.TRT]


def test_polygraphy_reads_what_a_check_saved(lowered_folder, tmp_path):
    """Its own command runs the standard model on the same inputs, and finds the same outputs."""
    inputs, outputs = tmp_path / "inputs.json", tmp_path / "outputs.json"
    done = run(
        "mpq-check", lowered_folder, "--runtime", "onnx", "--save-inputs", inputs,
        "--save-outputs", outputs, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["gate"] is None
    model = lowered_folder / "onnx" / "onnx" / "model.onnx"
    polygraphy = [str(Path(sys.executable).parent / "polygraphy"), "run", str(model), "--onnxrt"]
    loading = ["--load-inputs", str(inputs), "--load-outputs", str(outputs)]
    done = subprocess.run([*polygraphy, *loading], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "PASSED" in done.stdout
