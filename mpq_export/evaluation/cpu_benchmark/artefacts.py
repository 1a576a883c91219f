"""The files that backends run: each is made once, in a process of its own, and named by content.

An artefact's folder carries a hash of everything that it is made from: the model, the artefact
before it, this package's sources that make it, and the versions of the libraries that do.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import mpq_export

from ...files import staged_folder
from ...packages import installed_version
from ..timing.making import make_apart

if TYPE_CHECKING:  # workers read this module, and models import torch
    from .models import BenchmarkModel

_MAKE = "mpq_export.evaluation.cpu_benchmark.making"
_SOURCES = Path(mpq_export.__file__).parent


class Artefact(StrEnum):
    """Names of folders."""

    CHECKPOINT = "checkpoint"
    QUANTIZED_W3A4 = "quantized-w3a4"
    QUANTIZED_W4A8 = "quantized-w4a8"
    BUNDLE_W3A4 = "bundle-w3a4"
    BUNDLE_W4A8 = "bundle-w4a8"
    FP32_ONNX = "fp32-onnx"
    FP32_ORT = "fp32-ort"
    INT8_ONNX = "int8-onnx"
    INT4_ONNX = "int4-onnx"
    FP32_OPENVINO = "fp32-openvino"
    INT8_OPENVINO = "int8-openvino"
    INT8_TORCH = "int8-torch"


@dataclass(frozen=True)
class Making:
    """How an artefact is made: from which other, by which sources and packages."""

    source: Artefact | None
    sources: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


_QUANTIZING = ("core", "methods", "training", "checkpoints", "bundle.py", "quantized_bundle.py")
_LOWERING = ("lowering", "skeleton.py")
_HERE = "evaluation/cpu_benchmark/making"
_BASELINES = "evaluation/baselines"
_MODULE = ("prediction.py", f"{_BASELINES}/denoiser_module.py")
_TRACING = (*_MODULE, "lowering/tracing.py", f"{_BASELINES}/fp32_onnx.py")
_WRITTEN_OUT = (f"{_BASELINES}/onnxruntime_form.py", "lowering/instance_norm.py")
_ORT = ("onnxruntime", "onnx")

MAKINGS = {
    Artefact.CHECKPOINT: Making(None, packages=("diffusers",)),
    Artefact.QUANTIZED_W3A4: Making(Artefact.CHECKPOINT, _QUANTIZING, ("torch",)),
    Artefact.QUANTIZED_W4A8: Making(Artefact.CHECKPOINT, _QUANTIZING, ("torch",)),
    Artefact.BUNDLE_W3A4: Making(Artefact.QUANTIZED_W3A4, _LOWERING, ("torch", "onnx")),
    Artefact.BUNDLE_W4A8: Making(Artefact.QUANTIZED_W4A8, _LOWERING, ("torch", "onnx")),
    Artefact.FP32_ONNX: Making(Artefact.CHECKPOINT, _TRACING, ("torch", "onnx")),
    Artefact.FP32_ORT: Making(Artefact.FP32_ONNX, _WRITTEN_OUT, ("onnx",)),
    Artefact.INT8_ONNX: Making(Artefact.FP32_ORT, (f"{_BASELINES}/int8_onnx.py",), _ORT),
    Artefact.INT4_ONNX: Making(Artefact.FP32_ORT, (f"{_HERE}/int4_onnx.py",), _ORT),
    Artefact.FP32_OPENVINO: Making(
        Artefact.FP32_ONNX, (f"{_HERE}/fp32_openvino.py",), ("openvino",)
    ),
    Artefact.INT8_OPENVINO: Making(
        Artefact.FP32_ONNX, (f"{_HERE}/int8_openvino.py",), ("openvino", "nncf")
    ),
    Artefact.INT8_TORCH: Making(
        Artefact.CHECKPOINT, (*_MODULE, f"{_HERE}/int8_torch.py"), ("torch", "torchao")
    ),
}


def artefact(model: BenchmarkModel, which: Artefact, work: Path) -> Path:
    """The artefact's folder inside ``work``, made if it is not there yet.

    Raises CannotBeMade with the making process's last words.
    """
    folder = work / model.name / f"{which}-{artefact_key(model, which)}"
    if folder.is_dir():
        return folder
    making = MAKINGS[which]
    source = None if making.source is None else artefact(model, making.source, work)
    _remove_superseded(folder.parent, which)
    with staged_folder(folder) as stage:
        if source is None:
            model.save(stage)
        else:
            make_apart(_MAKE, which.value, str(source), str(stage))
    return folder


def artefact_key(model: BenchmarkModel, which: Artefact) -> str:
    """Twelve hexadecimal digits of everything that the artefact is made from."""
    making = MAKINGS[which]
    parts = [
        which.value,
        json.dumps(asdict(model), sort_keys=True, default=str),
        *(f"{package} {installed_version(package)}" for package in making.packages),
        *_digests(_SOURCES, making.sources),
    ]
    if making.source is None:
        trained = model.trained_checkpoint()
        parts += _digests(trained, ("",)) if trained else []
    else:
        parts.append(artefact_key(model, making.source))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _digests(root: Path, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        path = root / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                with open(file, "rb") as stream:
                    yield hashlib.file_digest(stream, "sha256").hexdigest()


def _remove_superseded(folder: Path, which: Artefact) -> None:
    for old in folder.glob(f"{which}-*"):
        shutil.rmtree(old)
