"""Peaks of the processor's products, measured."""

import pytest
from plugins.onnxruntime.sessions import require_library

from mpq_export.errors import RuntimeUnavailable
from mpq_export.evaluation.profiling.peak import FLOAT32, INT8, measured_peaks
from mpq_export.runtimes.native_library import KERNELS_VARIABLE, kernel_names


@pytest.fixture(autouse=True)
def library():
    require_library()


def test_every_set_of_kernels_has_a_peak(monkeypatch):
    peaks = {}
    for name in kernel_names():
        monkeypatch.setenv(KERNELS_VARIABLE, name)
        peaks[name] = measured_peaks(1)
    assert all(set(of) == {INT8, FLOAT32} and min(of.values()) > 0 for of in peaks.values())


def test_kernels_that_are_not_there_have_none(monkeypatch):
    monkeypatch.setenv(KERNELS_VARIABLE, "sse9")
    with pytest.raises(RuntimeUnavailable, match="sse9"):
        measured_peaks(1)
