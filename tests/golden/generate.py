"""Writes the golden cases: ``cd tests && python -m golden.generate``.

Every case is one safetensors file. Tensors and metadata of a layer case (``layer_cases.py``):

- ``x`` float32 or float16; ``planes``, ``plane_rows``, ``steps``, ``scale``, ``row_order``,
  ``bias``, ``act_scale``, ``act_zero_point``, ``input_factor``, ``input_shift`` as in a node;
  ``step_index`` int32 [1];
- expected: ``codes`` uint8, shape of x; ``accumulator`` int32 and ``output`` float32, shape of Y
  (for a float16 x, Y is ``output`` rounded once);
- metadata, all strings: ``kind`` ("linear", "conv"), ``act_bits``, ``K``, and for a convolution
  ``kernel_shape``, ``strides``, ``pads``, ``dilations`` (numbers separated by commas), ``group``.

Of a snapping case (``snap_cases.py``), kind "snap": ``weights``, ``offset``, ``steps`` float64;
expected ``levels_scale`` float64, ``levels_offset``, ``levels_steps`` int8 (the snapped levels),
``row_offset``, ``row_steps`` int8, ``row_codes`` uint8, ``row_scale`` float32 (the quantised rows).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpq_export.core.integer_reference import run_layer
from mpq_export.core.planes import quantize_rows, snap_levels

from .layer_cases import LayerInput, layer_inputs
from .snap_cases import SnapInput, snap_inputs

CASES = Path(__file__).parent / "cases"
_TYPE_NAMES = {
    "float16": "F16", "float32": "F32", "float64": "F64", "int8": "I8", "uint8": "U8",
    "int32": "I32",
}  # fmt: skip


def generate(folder: Path) -> None:
    """Write every case into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in layer_inputs():
        (folder / f"{case.name}.safetensors").write_bytes(_layer_file(case))
    for case in snap_inputs():
        (folder / f"{case.name}.safetensors").write_bytes(_snap_file(case))


def _layer_file(case: LayerInput) -> bytes:
    layer, weight, conv = case.layer, case.layer.weight, case.layer.conv
    trace = run_layer(layer, case.x, case.step_index)
    metadata = {
        "kind": "linear" if conv is None else "conv",
        "act_bits": str(layer.act_bits),
        "K": str(weight.columns),
    }
    if conv is not None:
        for name in ("kernel_shape", "strides", "pads", "dilations"):
            metadata[name] = ",".join(map(str, getattr(conv, name)))
        metadata["group"] = str(conv.group)
    return safetensors_bytes(
        {
            "x": case.x,
            "step_index": np.array([case.step_index], np.int32),
            "planes": weight.planes,
            "plane_rows": weight.plane_rows,
            "steps": weight.steps,
            "scale": weight.scale,
            "row_order": weight.row_order,
            "bias": layer.bias,
            "act_scale": layer.act_scale,
            "act_zero_point": layer.act_zero_point,
            "input_factor": layer.input_factor,
            "input_shift": layer.input_shift,
            "codes": trace.codes,
            "accumulator": trace.accumulator,
            "output": trace.output,
        },
        metadata,
    )


def _snap_file(case: SnapInput) -> bytes:
    levels = snap_levels(case.offset, case.steps)
    rows = quantize_rows(case.weights, levels)
    return safetensors_bytes(
        {
            "weights": case.weights,
            "offset": case.offset,
            "steps": case.steps,
            "levels_scale": levels.scale,
            "levels_offset": levels.offset,
            "levels_steps": levels.steps,
            "row_offset": rows.offset,
            "row_steps": rows.steps,
            "row_codes": rows.codes,
            "row_scale": rows.scale,
        },
        {"kind": "snap"},
    )


def safetensors_bytes(tensors: Mapping[str, NDArray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; the package itself writes metadata in random order.

    Wide types come first, so that every tensor is aligned.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    body = b""
    for name, value in sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize):
        data = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {
            "dtype": _TYPE_NAMES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else CASES)
