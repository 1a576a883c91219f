"""What is compared: bundles in runtimes, and baselines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ...bundle import WEIGHTS, Bundle
from ...errors import UserError
from ...lowering.names import Target
from ...lowering.targets import lowered_files
from ...runtimes.cuda.gpu import gpu_here
from ...runtimes.names import ENGINE_RUNTIMES, Runtime
from ...runtimes.tensorrt.engine_files import fitting_record
from ...runtimes.tensorrt.installed import installed
from ..size import size_report


class Kind(StrEnum):
    """Of a row."""

    FP32 = "fp32"
    INT8 = "int8"
    BUNDLE = "bundle"


BASELINES = (Kind.FP32, Kind.INT8)
_BASELINE_TITLES = {
    Kind.FP32: "ONNX Runtime fp32",
    Kind.INT8: "ONNX Runtime int8 (static QDQ)",
}
_BASELINE_BITS = {Kind.FP32: (32.0, 32), Kind.INT8: (8.0, 8)}


@dataclass(frozen=True)
class Row:
    """A model that is run in one way.

    Attributes:
        name: of files and in pictures, different for all rows.
        title: in tables.
        kind: a bundle, or which baseline.
        folder: the bundle's, or the baseline's.
        runtime: of a bundle; None for baselines, which run in ONNX Runtime.
        method: how a bundle was quantised.
        weight_bits: average bit planes per weight, of all quantised layers.
        act_bits: activation bits that were asked for.
        file_bytes: what is deployed.
        quantized_layers: how many layers run on integers.
    """

    name: str
    title: str
    kind: Kind
    folder: Path
    runtime: Runtime | None
    method: str
    weight_bits: float
    act_bits: int
    file_bytes: int
    quantized_layers: int


def baseline_row(kind: Kind, folder: Path) -> Row:
    """The row of a baseline that has been made."""
    weight_bits, act_bits = _BASELINE_BITS[kind]
    size = sum(file.stat().st_size for file in folder.glob("model.onnx*"))
    return Row(
        kind.value, _BASELINE_TITLES[kind], kind, folder, None, "", weight_bits, act_bits, size, 0
    )


def bundle_rows(bundles: Sequence[Bundle], runtimes: Sequence[Runtime]) -> list[Row]:
    """A row for every bundle in every runtime, named by what tells them apart.

    Raises UserError where two bundles would have one name.
    """
    names = _names([bundle.path for bundle in bundles])
    rows = []
    for bundle, name in zip(bundles, names, strict=True):
        size = size_report(bundle)
        for runtime in runtimes:
            several = len(runtimes) > 1
            rows.append(
                Row(
                    f"{name}-{runtime.value}" if several else name,
                    f"{name} in {runtime.value}" if several else name,
                    Kind.BUNDLE,
                    bundle.path,
                    runtime,
                    bundle.quantization.method,
                    size.average_weight_bits_all,
                    bundle.bits.activation,
                    deployed_bytes(bundle.path, runtime),
                    size.layers_quantized,
                )
            )
    return rows


def deployed_bytes(folder: Path, runtime: Runtime) -> int:
    """Size of the files that a runtime needs of a bundle; of its engines the one that runs here,
    and 0 where none does, which the row then says."""
    if runtime in ENGINE_RUNTIMES:
        return _plan_bytes(folder, runtime)
    if runtime is Runtime.TORCH:
        files = [folder / WEIGHTS]
    else:
        target = Target.ONNX if runtime is Runtime.ONNX else Target.ORT
        files = list((folder / "onnx" / target.value).glob("model.onnx*"))
    return sum(file.stat().st_size for file in files)


def _plan_bytes(folder: Path, runtime: Runtime) -> int:
    try:
        files = lowered_files(folder, Target.TRT)
        here = installed(runtime)
        return fitting_record(folder, Target.TRT.value, files, here, gpu_here()).size
    except UserError:
        return 0


def _names(folders: Sequence[Path]) -> list[str]:
    """Last parts of the paths; with the part before where these are alike."""
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}-{path.name}" for path in paths]
    clash = sorted({name for name in names if names.count(name) > 1} | set(names) & set(BASELINES))
    if clash:
        raise UserError(
            f"Two rows would be called {clash[0]}",
            where="BUNDLE...",
            fix="Give the folders different names, and each once",
        )
    return names
