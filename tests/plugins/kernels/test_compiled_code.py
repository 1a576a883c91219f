"""What nvcc makes of the kernels today, and the library that it makes."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .cases import plane_cases
from .fake_driver import kernel_names
from .prepared import prepare
from .test_interface import planned_launch

ROOT = Path(__file__).parents[3]
KERNELS = ROOT / "plugins" / "kernels"
TABLE = ROOT / "docs" / "results" / "kernel_table.md"
MAIN_TILE = "mpq_gemm_128_4_5"
INTEGER_TARGETS = {1: 2.0, 2: 2.3, 3: 2.6, 4: 3.8, 5: 4.1}
"""Integer instructions per mma on sm_87, below which the tensor cores decide the time."""

sys.path.insert(0, str(KERNELS))
import compiled_code  # noqa: E402
import toolchain  # noqa: E402


def needs(reason: str | None) -> None:
    """Skip a test for a reason; where `make gpu-tools` has run, nothing is missing."""
    if reason is not None:
        pytest.fail(reason) if toolchain.FOLDER.exists() else pytest.skip(reason)


def _committed():
    return compiled_code.read_table(TABLE.read_text(encoding="utf-8"))


def assert_within_targets(rows) -> None:
    orin = [row for row in rows if row.architecture == 87]
    assert {row.spilled for row in orin} == {0}
    main = {row.planes: row.integer_per_product for row in orin if row.kernel == MAIN_TILE}
    assert main.keys() == INTEGER_TARGETS.keys()
    assert all(main[planes] <= INTEGER_TARGETS[planes] for planes in main)


def test_committed_table_is_whole_and_within_the_targets():
    figures = _committed()
    for rows in (figures.loops, figures.straight):
        assert {row.architecture for row in rows} == set(compiled_code.ARCHITECTURES)
        assert len({row.key for row in rows}) == len(rows)
    assert {row.kernel for row in (*figures.loops, *figures.straight)} == set(kernel_names())
    assert compiled_code.read_table(compiled_code.table(figures, "nvcc")) == figures
    assert_within_targets(figures.loops)
    assert {row.spilled for row in figures.straight} == {0}


def test_orin_code_is_no_worse_than_committed():
    needs(compiled_code.missing_tool())
    fresh, before_all = compiled_code.measure([87]), _committed()
    assert_within_targets(fresh.loops)
    committed = {row.key: row for row in before_all.loops if row.architecture == 87}
    assert [row.key for row in fresh.loops] == sorted(committed), "no kernel has lost a loop"
    for row in fresh.loops:
        before = committed[row.key]
        assert row.products == before.products
        assert row.registers <= before.registers + 8
        assert row.issued_per_product <= 1.05 * before.issued_per_product
    straight = {row.key: row for row in before_all.straight if row.architecture == 87}
    assert [row.key for row in fresh.straight] == sorted(straight)
    for one in fresh.straight:
        assert one.spilled == 0
        assert one.registers <= straight[one.key].registers + 8
        assert one.instructions <= 1.05 * straight[one.key].instructions


def _library_on_a_fake_runtime(folder: Path) -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """What build.sh makes, not optimised, and the runtime that it launches by."""
    runtime, name = folder / "libcudart.so", "fake_runtime"
    source = Path(__file__).parent / f"{name}.cpp"
    compiler = [os.environ.get("CXX", "g++"), "-shared", "-fPIC", f"-Wl,-soname,lib{name}.so"]
    subprocess.run([*compiler, "-o", runtime, source], check=True)
    subprocess.run(["ar", "rc", folder / "libcudadevrt.a"], check=True)
    flags = f"-cudart shared -L{folder} -Xcicc -O0 -Xptxas -O0"
    environment = {"NVCC": str(toolchain.program("nvcc")), "NVCC_APPEND_FLAGS": flags}
    subprocess.run(
        [KERNELS / "build.sh", folder / "kernels.so", "87"],
        env={**os.environ, **environment}, check=True, capture_output=True,
    )  # fmt: skip
    fake = ctypes.CDLL(str(runtime))
    fake.fake_runtime_launched.restype = ctypes.c_char_p
    return ctypes.CDLL(str(folder / "kernels.so")), fake


def test_the_library_launches_the_kernels_that_were_compiled(gpu, tmp_path):
    """Host code and device code are compiled apart: each kernel is found by its name."""
    needs(compiled_code.missing_tool())
    library, fake = _library_on_a_fake_runtime(tmp_path)
    seen = set()
    assert library.mpq_ready() == 0
    for case in (*plane_cases(5), *plane_cases(8)):
        device = gpu.device.of_size(case.multiprocessors)
        prepared = prepare(device, case.case.layer, case.case.x, case.case.step_index)
        for which, float16 in (("quantize", 0), ("quantize", 1), ("multiply", 0)):
            prepared.call.float16 = float16
            planned = planned_launch(library, which, prepared)
            arguments = map(ctypes.byref, (prepared.layer.description, prepared.call))
            assert library[f"mpq_{which}"](*arguments, None) == 0
            kernel, *sizes = fake.fake_runtime_launched().decode().split()
            assert kernel == planned.kernel.decode()
            expected = [*planned.grid, planned.threads, planned.shared_bytes]
            assert [int(size) for size in sizes] == expected
            seen.add(kernel)
    assert seen == set(kernel_names())


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        ([], ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110", "sm_120", "compute_120"]),
        (["80", "87"], ["sm_80", "sm_87", "compute_87"]),
    ],
)
def test_newer_gpus_find_ptx_in_the_library(tmp_path, given, codes):
    """An nvcc that only says what it is asked for."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    nvcc.chmod(0o755)
    asked = subprocess.run(
        [KERNELS / "build.sh", "out.so", *given],
        env={**os.environ, "NVCC": str(nvcc)}, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert re.findall(r"code=(\w+)", asked) == codes
    flags = (KERNELS / "device.flags").read_text(encoding="utf-8").split()
    assert set(flags) <= set(asked.split())
