"""Every kernel on a real or emulated GPU against the integer reference, without pytest.

    PYTHONPATH=tests python -m plugins.kernels.exactness --out FILE [--emulated] [--cases N]

With --driver, CUDA's driver launches what NVRTC makes, even if there is a library; FILE says why if
that cannot be. Needs numpy, and for a real GPU torch. Golden cases are made anew by what made the
committed files. FILE is JSON: how many cases of each kind there were, and the names of those that
differ; exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from golden.layer_cases import layer_inputs
from golden.reader import LayerCase

from mpq_export.core.integer_reference import run_layer
from mpq_export.errors import RuntimeUnavailable
from mpq_export.runtimes.gpu_kernels.choice import gpu_kernels, nvrtc_kernels
from mpq_export.runtimes.gpu_kernels.library_file import emulated_library

from .cases import KernelCase, golden, plane_cases, random_case
from .emulated import EmulatedGpu
from .fake_driver import DriverGpu
from .prepared import Gpu, RealGpu

_PLANES = range(1, 9)


def kernel_cases(random_cases: int, planes: range) -> Iterator[tuple[str, KernelCase]]:
    """Kind and case."""
    for made in layer_inputs():
        expected = run_layer(made.layer, made.x, made.step_index)
        yield "golden", golden(LayerCase(made.name, made.layer, made.x, made.step_index, expected))
    for index in range(random_cases):
        yield "random", random_case(index)
    for count in planes:
        for case in plane_cases(count):
            yield "every plane count on every path", case


def tried(gpu: Gpu, random_cases: int, planes: range) -> dict[str, object]:
    """How many cases there were by kind, and which of them differ."""
    counts: dict[str, int] = {}
    wrong = []
    for kind, case in kernel_cases(random_cases, planes):
        counts[kind] = counts.get(kind, 0) + 1
        if not case.holds(gpu):
            wrong.append(case.case.name)
    return {"cases": counts, "differing": wrong}


def _gpu(emulated: bool, driver: bool) -> Gpu:
    if emulated:
        library = emulated_library()
        return DriverGpu.of(library) if driver else EmulatedGpu.of(library)
    from mpq_export.runtimes.gpu_kernels.torch_gpu import current_gpu

    return RealGpu(current_gpu(nvrtc_kernels if driver else gpu_kernels).kernels)


def main() -> int:
    """As the module's text says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--driver", action="store_true")
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--planes", type=int, default=len(_PLANES))
    given = parser.parse_args()
    try:
        gpu = _gpu(given.emulated, given.driver)
    except RuntimeUnavailable as error:
        if not given.driver:
            raise
        given.out.write_text(json.dumps({"skipped": error.paragraph()}), encoding="utf-8")
        return 0
    result = tried(gpu, given.cases, _PLANES[: given.planes])
    given.out.write_text(json.dumps(result), encoding="utf-8")
    return 1 if result["differing"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
