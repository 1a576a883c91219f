"""What a runtime comes down to on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

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


def reference_selection(reason: str = "") -> Selection:
    """Torch's integer reference, and why it runs where something faster was asked for."""
    note = "integer reference on the processor"
    note = f"{note}: {reason}" if reason else note
    return Selection(Runtime.TORCH, Runtime.TORCH, note)


def gpu_selection(origin: str, how: str = "") -> Selection:
    """The GPU kernels, where they come from, and how they are launched."""
    note = f"GPU kernels {origin}"
    note = f"{note}, {how}" if how else note
    return Selection(Runtime.TORCH, Runtime.TORCH, note)


def select(runtime: Runtime) -> Selection:
    """``ort`` is ``ort-portable`` where the native library is not there; all others are themselves.

    The note of ``torch`` says whether the GPU kernels run; they are compiled if need be.

    Raises RuntimeUnavailable if ``MPQ_CPU_KERNELS`` or ``MPQ_GPU_KERNELS`` names what does not run
    here.
    """
    if runtime is Runtime.TORCH and find_spec("torch") is not None:
        from .gpu_choice import choose_gpu

        gpu = choose_gpu()
        if isinstance(gpu, str):
            return reference_selection(gpu)
        return gpu_selection(gpu.kernels.library.origin)
    if runtime is not Runtime.ORT:
        return Selection(runtime, runtime)
    try:
        native_library()
    except RuntimeUnavailable as error:
        return Selection(runtime, Runtime.ORT_PORTABLE, f"no native library: {error.why}")
    return Selection(runtime, runtime, f"native kernels {chosen_kernels()}")
