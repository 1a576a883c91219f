"""The most multiply-accumulates that this processor can do, of integers and of floats."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

from ...errors import RuntimeUnavailable
from ...runtimes.native_library import chosen_kernels, native_library

INT8, FLOAT32 = "int8", "float32"
"""Types of products whose peaks are measured."""
_SPINS = {INT8: "MpqSpin", FLOAT32: "MpqSpinFloat"}
_SAMPLES, _SAMPLE_SECONDS = 50, 0.01


def measured_peaks(threads: int) -> dict[str, float]:
    """MAC/ns on ``threads`` threads by type, measured in this process; none without the native
    library.

    Every thread runs product instructions on registers alone: of int8 the chosen kernels', of
    float32 this processor's widest, as its products are ONNX Runtime's and not the kernels'. Raises
    RuntimeUnavailable where ``MPQ_CPU_KERNELS`` names others than this processor runs.
    """
    try:
        library = ctypes.CDLL(str(native_library()))
    except RuntimeUnavailable:
        return {}
    chosen_kernels()
    with ThreadPoolExecutor(threads) as pool:
        return {kind: _peak(pool, library[spin], threads) for kind, spin in _SPINS.items()}


def _peak(pool: ThreadPoolExecutor, spin: ctypes._NamedFuncPointer, threads: int) -> float:
    spin.argtypes, spin.restype = [ctypes.c_int64], ctypes.c_int64
    rounds = 1000
    while (seconds := _timed(pool, spin, rounds, threads)[0]) < _SAMPLE_SECONDS:
        rounds *= 2 if seconds > 0 else 10
    samples = [_timed(pool, spin, rounds, threads) for _ in range(_SAMPLES)]
    # The best of many short ones: what else runs can only slow it, and leaves some of them alone.
    return max(products / seconds / 1e9 for seconds, products in samples)


def _timed(
    pool: ThreadPoolExecutor, spin: ctypes._NamedFuncPointer, rounds: int, threads: int
) -> tuple[float, int]:
    """Seconds and products of one sample; ctypes lets go of the interpreter while it runs."""
    begin = time.perf_counter()
    products = sum(pool.map(spin, [rounds] * threads))
    return time.perf_counter() - begin, products
