"""The peak of the processor's products, measured."""

import pytest
from plugins.onnxruntime.sessions import require_library

from mpq_export.errors import RuntimeUnavailable
from mpq_export.evaluation.profiling.peak import measured_peak
from mpq_export.runtimes.native_library import KERNELS_VARIABLE, kernel_names


@pytest.fixture(autouse=True)
def library():
    require_library()


def test_every_set_of_kernels_has_a_peak(monkeypatch):
    peaks = {}
    for name in kernel_names():
        monkeypatch.setenv(KERNELS_VARIABLE, name)
        peaks[name] = measured_peak(1)
    assert all(peak > 0 for peak in peaks.values())


def test_kernels_that_are_not_there_have_none(monkeypatch):
    monkeypatch.setenv(KERNELS_VARIABLE, "sse9")
    with pytest.raises(RuntimeUnavailable, match="sse9"):
        measured_peak(1)
