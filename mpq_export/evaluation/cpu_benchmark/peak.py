"""The most int8 multiply-accumulates that this processor can do."""

from __future__ import annotations


def measured_peak(threads: int) -> float | None:
    """MAC/ns on ``threads`` threads, measured in this process; None where there is no means to.

    Only a loop over registers can tell, and numpy and ONNX Runtime have none.
    """
    return None
