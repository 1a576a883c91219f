"""What is measured: one record per backend; a module per library opens its artefacts.

Such a module has ``open_step(folder, inputs, threads) -> Step``. It is imported in the backend's
own process alone, before the clock of loading starts, and imports its library at its top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ..artefacts import Artefact
from ..inputs import Inputs


@dataclass(frozen=True)
class Step:
    """An opened model.

    Attributes:
        run: one denoising step on the given inputs.
        runs_as: how, in a few words; may be empty.
    """

    run: Callable[[], Any]
    runs_as: str = ""


class Opener(Protocol):
    """``open_step`` of a backend's module."""

    def __call__(self, folder: Path, inputs: Inputs, threads: int) -> Step:
        """Open an artefact for inputs of these shapes."""


@dataclass(frozen=True)
class Backend:
    """A way to run a model.

    Attributes:
        name: of ``--backend``.
        title: in tables.
        artefact: what it opens.
        files: patterns of the files in the artefact that are deployed.
        module: what opens it, in this package.
    """

    name: str
    title: str
    artefact: Artefact
    files: tuple[str, ...]
    module: str

    @property
    def is_ours(self) -> bool:
        """Whether this is the packed model."""
        return self.module == "packed"

    def opener(self) -> Opener:
        """Import the backend's library."""
        opener: Opener = import_module(f".{self.module}", __name__).open_step
        return opener

    def file_bytes(self, folder: Path) -> int:
        """Size of what is deployed of an artefact."""
        return sum(file.stat().st_size for glob in self.files for file in folder.glob(glob))


_PACKED = ("bundle/onnx/ort/model.onnx*",)
_ONNX, _IR = ("model.onnx*",), ("model.xml", "model.bin")

BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("ours-w3a4", "ours W3A4", Artefact.BUNDLE_W3A4, _PACKED, "packed"),
        Backend("ours-w4a8", "ours W4A8", Artefact.BUNDLE_W4A8, _PACKED, "packed"),
        Backend("ort-fp32", "ONNX Runtime fp32", Artefact.FP32_ONNX, _ONNX, "standard_onnx"),
        Backend(
            "ort-int8",
            "ONNX Runtime int8 (static QDQ)",
            Artefact.INT8_ONNX,
            _ONNX,
            "standard_onnx",
        ),
        Backend(
            "ort-int4",
            "ONNX Runtime 4-bit weights (MatMulNBits)",
            Artefact.INT4_ONNX,
            _ONNX,
            "standard_onnx",
        ),
        Backend(
            "openvino-fp32",
            "OpenVINO fp32",
            Artefact.FP32_OPENVINO,
            _IR,
            "openvino_fp32",
        ),
        Backend(
            "openvino-int8",
            "OpenVINO int8 (NNCF)",
            Artefact.INT8_OPENVINO,
            _IR,
            "openvino_int8",
        ),
        Backend(
            "openvino-int8-f32",
            "OpenVINO int8 (NNCF), the rest in float32",
            Artefact.INT8_OPENVINO,
            _IR,
            "openvino_fp32",
        ),
        Backend(
            "torch-fp32",
            "torch fp32 (channels last)",
            Artefact.CHECKPOINT,
            ("**/*.safetensors",),
            "torch_fp32",
        ),
        Backend(
            "torch-int8",
            "torch int8 (pt2e, x86 Inductor)",
            Artefact.INT8_TORCH,
            ("model-b2.pt2",),
            "torch_int8",
        ),
    )
}
OURS = tuple(backend for backend in BACKENDS.values() if backend.is_ours)
