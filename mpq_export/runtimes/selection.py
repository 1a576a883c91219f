"""What a runtime comes down to on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RuntimeUnavailable
from .names import Runtime
from .native_library import chosen_kernels, native_library


@dataclass(frozen=True)
class Selection:
    """The runtime that was asked for, the one that runs, and what is to be said about it.

    ``note`` names the kernels of the native library, or says why there are none.
    """

    asked: Runtime
    runs: Runtime
    note: str = ""

    def __str__(self) -> str:
        return f"{self.runs.value} ({self.note})" if self.note else self.runs.value


def select(runtime: Runtime) -> Selection:
    """``ort`` is ``ort-portable`` where the native library is not there; all others are themselves.

    Raises RuntimeUnavailable if ``MPQ_CPU_KERNELS`` names kernels that do not run here.
    """
    if runtime is not Runtime.ORT:
        return Selection(runtime, runtime)
    try:
        native_library()
    except RuntimeUnavailable as error:
        return Selection(runtime, Runtime.ORT_PORTABLE, f"no native library: {error.why}")
    return Selection(runtime, runtime, f"native kernels {chosen_kernels()}")
