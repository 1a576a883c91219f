"""A board has no torch: importing, running, checking and drawing must not need it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from mpq_export.pipelines.registry import DrawRequest
from PIL import Image

import mpq_export
from mpq_export.bundle import read_bundle
from mpq_export.evaluation.frechet import FeatureStatistics
from mpq_export.evaluation.gate import draw_reference
from mpq_export.evaluation.reference import read_reference, write_reference
from mpq_export.progress import Silence

BLOCK = """
import sys
for name in ("torch", "diffusers", "transformers", "accelerate", "onnxscript", "torchmetrics",
             "sklearn", "skimage", "huggingface_hub", "scipy"):
    sys.modules[name] = None
"""
ROOT = Path(mpq_export.__file__).parent
FOR_WORKSTATIONS = (
    "checkpoints", "empty_model", "skeleton", "core", "export", "methods", "prediction", "training",
    "forecast", "evaluation.literature", "evaluation.scale_benchmark", "evaluation.size_table",
    "lowering.exporter", "lowering.translations", "runtimes.torch_denoiser",
    "evaluation.image_quality", "evaluation.weight_fit_benchmark", "quantized_bundle",
    "trained_quantization", "reconstruction", "evaluation.cpu_benchmark", "lowering.tracing",
    "runtimes.gpu_denoiser", "runtimes.replayed", "runtimes.torch_arrays",
    "runtimes.gpu_kernels.operator", "runtimes.gpu_kernels.torch_", "evaluation.gpu_check",
    "evaluation.module_fidelity", "temporal", "cached_features",
    "evaluation.training_profile", "evaluation.temporal_cache_table", "evaluation.tensorrt_plans",
    "evaluation.bench.networks", "evaluation.bench.network_quality",
    "evaluation.baselines.fp32_onnx", "evaluation.baselines.denoiser_module",
    "runtimes.full_precision", "evaluation.layer_blame", "evaluation.gate_report",
)  # fmt: skip
FOR_BOARDS = {
    "core.planes", "core.integer_reference", "lowering.portable", "lowering.nodes",
    "runtimes.onnxruntime_denoiser", "numpy_sampling", "sampling", "samplers.registry",
    "evaluation.check", "evaluation.doctor", "cli.check", "cli.doctor", "cli.sample", "cli.export",
    "pipelines.registry", "pipelines.images", "runtimes.selection", "runtimes.gpu_choice",
    "runtimes.gpu_kernels.device", "cli.build", "runtimes.tensorrt.denoiser",
    "runtimes.tensorrt.engine_builds", "runtimes.tensorrt.engine_source", "runtimes.cuda.code",
    "runtimes.cuda.stream", "drawing", "folder_drawing", "image_folder", "evaluation.reference",
    "evaluation.gate",
}  # fmt: skip


def run(code: str) -> str:
    """Run Python with torch and its company made unimportable."""
    done = execute(code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def execute(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code], capture_output=True, text=True, check=False
    )


def command(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """A command of ours in such a process."""
    arguments = [f"mpq-{name}", *map(str, words)]
    return execute(f"sys.argv = {arguments!r}\nfrom mpq_export.cli.{name} import main\nmain()\n")


def test_importing_the_package_imports_nothing_heavy():
    code = """
import mpq_export
heavy = {"numpy", "onnx", "onnxruntime", "pydantic", "typer", "rich"} & set(sys.modules)
print(sorted(heavy))
"""
    assert run(code).strip() == "[]"


def test_modules_for_boards_import_without_torch():
    """Every module of the package is tried, so that a new import of torch shows."""
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in ROOT.rglob("*.py")]
    names = {".".join(p for p in part if p != "__init__") for part in parts} - {""} | FOR_BOARDS
    code = f"""
from importlib import import_module
failed = []
for name in {sorted(names)!r}:
    try:
        import_module("mpq_export." + name)
    except ModuleNotFoundError:
        failed.append(name)
print(*failed)
"""
    failed = run(code).split()
    assert [name for name in failed if not name.startswith(FOR_WORKSTATIONS)] == []
    assert FOR_BOARDS.isdisjoint(failed)


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
    done = command("check", lowered_folder)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    assert "not measured (torch is not installed)" in done.stdout


def test_the_doctor_examines_without_torch(digits_folder):
    done = command("doctor", digits_folder)
    assert done.returncode == 0, done.stderr
    assert "verified: w3a4" in done.stdout


def test_images_are_drawn_without_torch_and_it_is_said(digits_folder, tmp_path):
    out = tmp_path / "grid.png"
    done = command("sample", digits_folder, "--num-images", 12, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["sampler"] == "numpy"
    assert report["scheduler"] == "DDIMScheduler"
    with Image.open(out) as picture:
        assert picture.size == (10 * 50 + 2, 2 * 50 + 2)
        assert len(np.unique(np.asarray(picture))) > 10
    done = command(
        "sample", digits_folder, "--scheduler", "dpmsolver++", "--steps", 5, "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert "sampler: numpy" in done.stdout


def test_a_reference_without_torch_has_the_images_alone_and_says_why(digits_folder, tmp_path):
    reference = tmp_path / "own"
    words = [digits_folder, "--num-images", 2, "--steps", 1, "--images", tmp_path / "out"]
    done = command("sample", *words, "--save-reference", reference)
    assert done.returncode == 0, done.stderr
    assert "the first images alone: its features need the Python package" in done.stdout
    found = read_reference(reference)
    assert len(found.shown) == 2
    assert found.images is None


def test_images_pass_a_gate_without_torch(digits_folder, tmp_path):
    """Of PSNR, also against a reference that holds features; they cannot be extracted here."""
    from mpq_export.checkpoints import load_checkpoint

    bundle = read_bundle(digits_folder)
    checkpoint = load_checkpoint(digits_folder.parent / "pipeline")
    drawn = draw_reference(bundle, checkpoint, DrawRequest(2, 1, 0), Silence())
    features = FeatureStatistics.of(np.eye(2))
    full = replace(drawn, extractor="Classifier 0", images=features, data=features)
    write_reference(tmp_path / "full", full)
    words = [digits_folder, "--steps", 1, "--images", 1, "--reference", tmp_path / "full"]
    done = command("check", *words, "--min-psnr", -100)
    assert done.returncode == 0, done.stderr
    assert "within the limit: PSNR" in done.stdout
    done = command("check", *words, "--max-frechet-increase", "15%")
    assert done.returncode == 2
    assert "pip install 'mpq-export[cpu]'" in done.stderr


def test_a_command_that_needs_torch_says_what_to_install(digits_folder, tmp_path):
    out = tmp_path / "x.png"
    done = command("sample", digits_folder, "--runtime", "torch", "--out", out)
    assert done.returncode == 2
    assert "pip install 'mpq-export[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
