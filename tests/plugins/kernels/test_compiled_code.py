"""What nvcc makes of the kernels today, against the committed table and the targets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "docs" / "results" / "kernel_table.md"
MAIN_TILE = "gemm<128, 4, 5>"
INTEGER_TARGETS = {1: 2.0, 2: 2.3, 3: 2.6, 4: 3.8, 5: 4.1}
"""Integer instructions per mma on sm_87, below which the tensor cores decide the time."""


def _compiled_code():
    path = ROOT / "plugins" / "kernels" / "compiled_code.py"
    spec = importlib.util.spec_from_file_location("compiled_code", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compiled_code"] = module
    spec.loader.exec_module(module)
    return module


compiled_code = _compiled_code()


def _committed():
    return compiled_code.read_table(TABLE.read_text(encoding="utf-8"))


def _assert_within_targets(rows) -> None:
    orin = [row for row in rows if row.architecture == 87]
    assert {row.spilled for row in orin} == {0}
    main = {row.planes: row.integer_per_product for row in orin if row.kernel == MAIN_TILE}
    assert main.keys() == INTEGER_TARGETS.keys()
    assert all(main[planes] <= INTEGER_TARGETS[planes] for planes in main)


def test_committed_table_is_whole_and_within_the_targets():
    rows = _committed()
    assert {row.architecture for row in rows} == set(compiled_code.ARCHITECTURES)
    assert len({row.key for row in rows}) == len(rows)
    assert compiled_code.read_table(compiled_code.table(rows, "nvcc")) == rows
    _assert_within_targets(rows)


@pytest.mark.skipif(
    compiled_code.missing_tool() is not None, reason=str(compiled_code.missing_tool())
)
def test_orin_code_is_no_worse_than_committed():
    fresh = compiled_code.measure(87)
    _assert_within_targets(fresh)
    committed = {row.key: row for row in _committed() if row.architecture == 87}
    assert [row.key for row in fresh] == sorted(committed), "no kernel and no loop has vanished"
    for row in fresh:
        before = committed[row.key]
        assert row.products == before.products
        assert row.registers <= before.registers + 8
        assert row.issued_per_product <= 1.05 * before.issued_per_product
