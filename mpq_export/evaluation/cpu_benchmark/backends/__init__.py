"""What is measured: one record per backend; a module per library opens its artefacts.

Such a module has ``open_step(folder, inputs, threads) -> Step``, see ``timing.steps``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..artefacts import Artefact


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

    @property
    def opener(self) -> str:
        """The module's whole name."""
        return f"{__name__}.{self.module}"

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
        Backend("ort-fp32", "ONNX Runtime fp32", Artefact.FP32_ORT, _ONNX, "standard_onnx"),
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
