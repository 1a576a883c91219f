"""The most int8 multiply-accumulates that this processor can do with the chosen kernels."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

from ...errors import RuntimeUnavailable
from ...runtimes.native_library import chosen_kernels, native_library

_SAMPLES, _SAMPLE_SECONDS = 50, 0.01


def measured_peak(threads: int) -> float | None:
    """MAC/ns on ``threads`` threads, measured in this process; None without the native library.

    Every thread runs the kernels' product instruction on registers alone. Raises RuntimeUnavailable
    where ``MPQ_CPU_KERNELS`` names others than this processor runs.
    """
    try:
        spin = ctypes.CDLL(str(native_library())).MpqSpin
    except RuntimeUnavailable:
        return None
    chosen_kernels()
    spin.argtypes, spin.restype = [ctypes.c_int64], ctypes.c_int64
    with ThreadPoolExecutor(threads) as pool:
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
