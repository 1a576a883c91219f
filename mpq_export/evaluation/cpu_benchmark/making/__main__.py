"""``python -m mpq_export.evaluation.cpu_benchmark.making ARTEFACT SOURCE FOLDER``."""

import importlib
import sys
import traceback
from pathlib import Path

from ....cli import console
from ...timing.failures import one_line
from ..artefacts import Artefact

_BASELINES = "...baselines"
_MODULES = {
    Artefact.QUANTIZED_W3A4: (".quantized", "w3a4"),
    Artefact.QUANTIZED_W4A8: (".quantized", "w4a8"),
    Artefact.BUNDLE_W3A4: (".lowered",),
    Artefact.BUNDLE_W4A8: (".lowered",),
    Artefact.FP32_ONNX: (f"{_BASELINES}.fp32_onnx",),
    Artefact.FP32_ORT: (f"{_BASELINES}.onnxruntime_form",),
    Artefact.INT8_ONNX: (".int8_onnx",),
    Artefact.INT4_ONNX: (".int4_onnx",),
    Artefact.FP32_OPENVINO: (".fp32_openvino",),
    Artefact.INT8_OPENVINO: (".int8_openvino",),
    Artefact.INT8_TORCH: (".int8_torch",),
}


def main(which: str, source: str, folder: str) -> None:
    """Make one artefact; the last line on stderr says what went wrong."""
    console.quiet_libraries()
    module, *words = _MODULES[Artefact(which)]
    try:
        importlib.import_module(module, __package__).make(Path(source), Path(folder), *words)
    except Exception as error:  # libraries raise anything, and messages of pages
        traceback.print_exc()
        sys.exit(one_line(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
