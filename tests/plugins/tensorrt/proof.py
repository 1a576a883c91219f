"""What can be proved of the C++ plugin without a GPU: compiled, run on the emulated GPU, and
loaded by TensorRT's own libraries.

    PYTHONPATH=tests python -m plugins.tensorrt.proof --out docs/results \\
        --headers INCLUDE... --runtimes LIBRARY... [--cuda-target FOLDER]

``make trt-plugin-check`` runs it. Every folder of headers is compiled against, and the result
driven through TensorRT's interface on the emulated GPU, on all golden cases. Every runtime library,
such as ``libnvinfer_lean.so.11`` of the wheel ``tensorrt-lean-cu13-libs``, loads a plugin that nvcc
compiled with the newest headers of its major version; those for aarch64 do so under
``qemu-aarch64``, with a plugin that is cross-compiled (``--cuda-target`` as cmake/aarch64.cmake
says). TensorRT-RTX builds the shipped models.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .driver import SOURCES
from .proof_report import markdown

ROOT = Path(__file__).parents[3]
BUILDS = ROOT / "build" / "tensorrt"
AARCH64 = 183
"""Of ELF's ``e_machine``."""
_RTX = "libtensorrt_rtx"
_RTX_MAJOR = 11
"""Whose headers TensorRT-RTX's interfaces are like."""
_MODELS = ("digits", "digits_dit", "photos")


@dataclass(frozen=True)
class Headers:
    """A folder of TensorRT's headers."""

    folder: Path
    version: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> Headers:
        text = (folder / "NvInferVersion.h").read_text(encoding="utf-8")
        kinds = r"^#define (?:NV_TENSORRT|TRT)_(?:MAJOR|MINOR|PATCH)(?:_ENTERPRISE)? (\d+)"
        return cls(folder, tuple(map(int, re.findall(kinds, text, re.MULTILINE)[:3])))

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True)
class Runtime:
    """A library of TensorRT's with a plugin registry."""

    path: Path

    @property
    def major(self) -> int:
        """Of the headers that fit it."""
        if self.path.name.startswith(_RTX):
            return _RTX_MAJOR
        return int(self.path.name.rpartition(".")[2])

    @property
    def for_aarch64(self) -> bool:
        with self.path.open("rb") as file:
            return int.from_bytes(file.read(20)[18:], "little") == AARCH64

    @property
    def name(self) -> str:
        return self.path.name.partition(".")[0]


def run(command: Sequence[str | Path], **env: str) -> str:
    """What a command prints; ends the program where it fails."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def built(headers: Headers, kind: str, *options: str) -> Path:
    """A plugin library."""
    folder = BUILDS / f"{kind}-{headers.name}"
    root = f"-DTensorRT_ROOT={headers.folder}"
    run(["cmake", "-S", SOURCES, "-B", folder, root, *options])
    run(["cmake", "--build", folder])
    return folder / "libmpq_tensorrt.so"


def compiled(source: str, headers: Headers, made: Path, cuda: Path, *flags: str) -> Path:
    """A program or library of ``plugins/tensorrt/tests``."""
    made.parent.mkdir(parents=True, exist_ok=True)
    compiler = "aarch64-linux-gnu-g++" if "aarch64" in made.name else "g++"
    includes = ["-isystem", headers.folder, "-isystem", cuda]
    run([compiler, "-std=c++17", "-O1", *includes, *flags, SOURCES / "tests" / source, "-ldl", "-o",
         made])  # fmt: skip
    return made


def on_the_emulated_gpu(headers: Headers, cuda: Path) -> dict[str, Any]:
    """Whether it compiles, and how many tests pass through TensorRT's interface."""
    run([SOURCES / "check_headers.sh", headers.folder], CUDA_INCLUDE=str(cuda))
    plugin = built(headers, "emulated", "-DMPQ_EMULATED=ON", f"-DCUDA_INCLUDE={cuda}")
    driver = BUILDS / f"driver-{headers.name}.so"
    compiled("plugin_driver.cpp", headers, driver, cuda, "-shared", "-fPIC")
    said = run(
        [sys.executable, "-m", "pytest", "-q", "-k", "whole", "tests/plugins/tensorrt"],
        MPQ_TENSORRT_DRIVEN=f"{driver}:{plugin}",
    )
    found = re.search(r"(\d+) passed", said)
    return {"headers": headers.name, "compiles": True, "exact": int(found[1]) if found else 0}


def loaded_by(
    runtime: Runtime, headers: Headers, cuda: Path, cuda_target: Path | None, architectures: str
) -> dict[str, Any]:
    """What TensorRT's registry makes of the plugin, by its own library."""
    kind = "aarch64" if runtime.for_aarch64 else platform.machine()
    options = [f"-DCMAKE_CUDA_ARCHITECTURES={architectures}"]
    start: list[str] = []
    if runtime.for_aarch64:
        if cuda_target is None:
            sys.exit(f"{runtime.path} is for aarch64: --cuda-target is missing")
        options += [f"-DCMAKE_TOOLCHAIN_FILE={SOURCES / 'cmake' / 'aarch64.cmake'}",
                    f"-DCUDA_TARGET={cuda_target}"]  # fmt: skip
        start = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
    plugin = built(headers, kind, *options)
    probe = compiled("probe.cpp", headers, BUILDS / f"probe-{kind}-{headers.name}", cuda)
    told = json.loads(run([*start, probe, runtime.path, plugin]))
    number = told.pop("version")
    version = f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
    return {
        "runtime": runtime.name, "version": version, "processor": kind, "headers": headers.name,
        "library_bytes": plugin.stat().st_size, "checks": told,
        "exports": sorted(exported(plugin)),
    }  # fmt: skip


def exported(plugin: Path) -> set[str]:
    """Names that the library shows."""
    lines = run(["nm", "-D", "--defined-only", plugin]).splitlines()
    return {line.split()[-1] for line in lines}


def whole_models(plugin: Path) -> Iterator[dict[str, Any]]:
    """The shipped models in TensorRT-RTX."""
    import fixtures

    from mpq_export.lowering.kernel_nodes import is_kernel_node
    from mpq_export.lowering.names import Target
    from mpq_export.lowering.targets import MODEL, read_lowered
    from mpq_export.runtimes.tensorrt.flavour import environment

    for name in _MODELS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            checkpoint = ROOT / "pipelines" / name / "checkpoint"
            bundle = fixtures.quantized_bundle(checkpoint, folder / "bundle", "rtn",
                                               targets=(Target.TRT,))  # fmt: skip
            plan = folder / "plan"
            run([sys.executable, "-m", "plugins.tensorrt.rtx_model", plugin,
                 bundle / "onnx" / "trt" / MODEL, plan],
                **{**environment(folder), "PYTHONPATH": str(ROOT / "tests")})  # fmt: skip
            data, graph = plan.read_bytes(), read_lowered(bundle, Target.TRT)
            values = graph.values()
            nodes = [node for node in graph.model.graph.node if is_kernel_node(node)]
            words = [values[f"{node.name}.words"].tobytes() for node in nodes]
            yield {
                "model": name, "packed_nodes": len(nodes),
                "words_bytes": sum(map(len, words)), "plan_bytes": len(data),
                "words_once": all(data.count(one) == 1 for one in words),
            }  # fmt: skip


def proof(given: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    all_headers = sorted(map(Headers.of, given.headers), key=lambda one: one.version)
    result: dict[str, Any] = {
        "command": "make trt-plugin-check",
        "compilers": [run([tool, "--version"]).strip().splitlines()[-1 if tool == "nvcc" else 0]
                      for tool in ("g++", "nvcc", "cmake")],
        "architectures": given.architectures,
        "headers": [on_the_emulated_gpu(one, given.cuda) for one in all_headers],
        "runtimes": [],
        "models": [],
    }  # fmt: skip
    for runtime in map(Runtime, given.runtimes):
        fitting = [one for one in all_headers if one.version[0] == runtime.major]
        if not fitting:
            sys.exit(f"{runtime.path}: no headers of version {runtime.major} are given")
        result["runtimes"].append(
            loaded_by(runtime, fitting[-1], given.cuda, given.cuda_target, given.architectures)
        )
        if runtime.name == _RTX:
            plugin = BUILDS / f"{platform.machine()}-{fitting[-1].name}" / "libmpq_tensorrt.so"
            result["models"] = list(whole_models(plugin))
    return result


def main() -> None:
    """As the module's text says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--headers", type=Path, nargs="+", required=True)
    parser.add_argument("--runtimes", type=Path, nargs="*", default=[])
    parser.add_argument("--cuda", type=Path, default=Path("/usr/local/cuda/include"))
    parser.add_argument("--cuda-target", type=Path)
    parser.add_argument("--architectures", default="87-real;120")
    given = parser.parse_args()
    result = proof(given)
    (given.out / "tensorrt_plugin.json").write_text(json.dumps(result, indent=2) + "\n")
    (given.out / "tensorrt_plugin.md").write_text(markdown(result))


if __name__ == "__main__":
    main()
