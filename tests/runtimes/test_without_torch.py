"""A board has no torch: importing and running a bundle in ONNX Runtime must not need it."""

import subprocess
import sys

BLOCK = """
import sys
for name in ("torch", "diffusers", "accelerate", "onnxscript", "torchmetrics", "PIL", "sklearn"):
    sys.modules[name] = None
"""


def run(code: str) -> str:
    """Run Python with torch and its company made unimportable."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy():
    code = """
import mpq_export
heavy = {"numpy", "onnx", "onnxruntime", "pydantic", "typer", "rich"} & set(sys.modules)
print(sorted(heavy))
"""
    assert run(code).strip() == "[]"


def test_modules_for_boards_import_without_torch():
    run(
        """
import mpq_export.bundle, mpq_export.precision, mpq_export.core.planes
import mpq_export.core.integer_reference, mpq_export.lowering.portable
import mpq_export.runtimes.onnxruntime_denoiser, mpq_export.evaluation.node_fidelity
import mpq_export.evaluation.doctor
from mpq_export.cli import check, doctor, export, sample
"""
    )


def test_the_onnxruntime_denoiser_runs_without_torch(lowered_folder):
    shape = run(
        f"""
import numpy as np
from mpq_export.bundle import read_bundle
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.names import Runtime
denoise = open_denoiser(read_bundle({str(lowered_folder)!r}), Runtime.ORT)
print(denoise(np.zeros((2, 2, 8, 8), np.float32), 5, class_labels=np.array([0, 1])).shape)
"""
    )
    assert shape.strip() == "(2, 2, 8, 8)"


def test_nodes_are_checked_without_torch(lowered_folder):
    output = run(
        f"""
sys.argv = ["mpq-check", {str(lowered_folder)!r}]
from mpq_export.cli.check import main
main()
"""
    )
    assert "passed" in output
    assert "not measured (torch is not installed)" in output


def test_a_command_that_needs_torch_says_what_to_install(lowered_folder, tmp_path):
    code = f"""
sys.argv = ["mpq-sample", {str(lowered_folder)!r}, "--out", {str(tmp_path / "x.png")!r}]
from mpq_export.cli.sample import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr
