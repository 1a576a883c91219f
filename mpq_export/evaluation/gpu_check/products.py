"""Single products: packed layers against torch's float16 and int8 ones, on UNet shapes.

A subject runs its product on one set of weights after another, as in a network, and that whole run
is recorded: Python is not timed. There are as many sets as packed exceed the GPU's cache, up to a
bound; a row says where that was too few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ...core.integer_reference import ConvGeometry
from ...core.kernel_layout import to_kernel_layout
from ...progress import ProgressReporter
from ...runtimes.gpu_kernels.device import DeviceLayer
from ...runtimes.gpu_kernels.operator import PackedModule
from ..timing.statistics import ratio
from .place import Place
from .report import NO_TIME
from .rounding import mixed_planes, rounded_layer
from .turns import Subject, Timed, in_turns, prepared

OURS, FLOAT16, INT8 = "packed", "float16", "int8"
_PLANES, _ACT_BITS = 3, 8
_SAME = ConvGeometry((3, 3), pads=(1, 1, 1, 1))
_IMAGES = 2
_MOST_COPIES = 2048
_LEAST_INT8_ROWS = 32
_PEAK_SIDE, _PEAK_BYTES = 8192, 1 << 30
_LEAST_SIDE = 64
_FREE_SHARE = 4
"""Rates are measured in at most this part of the memory that is free."""


@dataclass(frozen=True)
class Product:
    """``channels`` to as many; of a linear layer for so many rows, of a 3x3 convolution for two
    images of so large a side."""

    channels: int
    rows: int = 0
    side: int = 0

    @property
    def name(self) -> str:
        """As tables call it."""
        if self.side:
            return f"conv 3x3, {self.channels}, {self.side}x{self.side}"
        return f"linear, {self.channels}, M {self.rows}"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """M, N, K of the matrix product that it is."""
        if self.side:
            return _IMAGES * self.side**2, self.channels, 9 * self.channels
        return self.rows, self.channels, self.channels

    @property
    def conv(self) -> ConvGeometry | None:
        """The geometry of a convolution."""
        return _SAME if self.side else None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of x."""
        if self.side:
            return (_IMAGES, self.channels, self.side, self.side)
        return (self.rows, self.channels)


PRODUCTS = (
    *(Product(c, rows=m) for c in (320, 640, 1280) for m in (16, 32, 128, 1024, 4096, 16384)),
    *(Product(c, side=s) for c in (320, 640, 1280) for s in (8, 16, 32, 64)),
)
EMULATED_PRODUCTS = (Product(32, rows=4), Product(32, rows=40), Product(16, side=4))


@dataclass(frozen=True)
class Rates:
    """What the GPU was measured to do: int8 operations and bytes per second, in 10^12.

    ``failures`` says why one of them is None.
    """

    int8_tops: float | None
    terabytes: float | None
    failures: Mapping[str, str]


def measured_rates(place: Place, rounds: int) -> Rates:
    """A large int8 product of torch's, and a copy (its bytes are read and written)."""
    device, free = place.gpu.device, place.free_bytes()
    side, size = peak_sizes(free)
    a, b = (torch.ones(side, side, dtype=torch.int8, device=device) for _ in range(2))
    source = torch.zeros(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    timed = in_turns(
        [
            Subject("int8", lambda: torch._int_mm(a, b.t())),
            Subject("copy", lambda: target.copy_(source)),
        ],
        rounds,
        place.stopwatch.queued_ms,
    )
    work = {"int8": 2 * side**3, "copy": 2 * len(source)}
    found = {
        name: work[name] / (1e9 * one.spread.median) if one.spread else None
        for name, one in timed.items()
    }
    failures = {name: one.failure for name, one in timed.items() if one.failure is not None}
    return Rates(found["int8"], found["copy"], failures)


def peak_sizes(free_bytes: int) -> tuple[int, int]:
    """Side of the int8 product, and bytes of the copy, that rates are measured with."""
    share, side = free_bytes // _FREE_SHARE, _PEAK_SIDE
    while side > _LEAST_SIDE and 6 * side**2 > share:  # two int8 operands and int32 sums
        side //= 2
    return side, max(min(_PEAK_BYTES, share // 2), 1)


def measure_products(
    place: Place,
    products: Sequence[Product],
    rounds: int,
    deadline: float,
    progress: ProgressReporter,
) -> dict[str, Any]:
    """The rates, and a row for every product; one that would begin after the deadline, of
    ``time.monotonic``, says so instead."""
    rates = measured_rates(place, rounds)
    progress.start("products", len(products))
    rows = []
    for product in products:
        if time.monotonic() < deadline:
            rows.append(_row(product, rates, place, rounds))
        else:
            rows.append({"name": product.name, "skipped": NO_TIME})
        progress.advance()
    return {"rates": asdict(rates), "rows": rows}


def _row(product: Product, rates: Rates, place: Place, rounds: int) -> dict[str, Any]:
    maker = _Maker(product, place)
    made: dict[str, Subject | Timed] = {
        name: prepared(name, make)
        for name, make in ((OURS, maker.packed), (FLOAT16, maker.float16), (INT8, maker.int8))
    }
    subjects = [one for one in made.values() if isinstance(one, Subject)]
    failed = {name: one for name, one in made.items() if isinstance(one, Timed)}
    timed: Mapping[str, Timed] = {**failed, **in_turns(subjects, rounds, place.stopwatch.queued_ms)}
    (m, n, k), ours = product.sizes, timed[OURS]
    row: dict[str, Any] = {"name": product.name, "M": m, "N": n, "K": k, **maker.sets}
    for name, one in timed.items():
        row[name] = asdict(one.spread) if one.spread else {"failure": one.failure}
    if ours.spread:
        per_ms = 1 / (1e9 * ours.spread.median)
        if rates.int8_tops:
            row["int8_rate_share"] = 2 * m * n * k * per_ms / rates.int8_tops
        if rates.terabytes:
            row["bandwidth_share"] = maker.packed_bytes * per_ms / rates.terabytes
        for name in (FLOAT16, INT8):
            if timed[name].ms:
                row[f"{name}_over_packed"] = ratio(timed[name].ms, ours.ms)
    return row


class _Maker:
    """Makes the subjects of one product; all see the same number of sets of weights."""

    def __init__(self, product: Product, place: Place) -> None:
        self._product, self._place, self._device = product, place, place.gpu.device
        m, n, k = product.sizes
        rng = np.random.default_rng(0)
        weights = (rng.standard_normal((n, k), np.float32) / np.sqrt(k)).astype(np.float32)
        self._layer = rounded_layer(weights, mixed_planes(n, _PLANES), _ACT_BITS, product.conv)
        packed = self._layer.weight.planes.nbytes
        self._copies = min(_MOST_COPIES, max(1, -(-2 * place.cache_bytes // packed)))
        if place.emulated:
            self._copies = 1
        self.sets = {
            "weight_sets": self._copies,
            "packed_weights_fit_cache": self._copies * packed <= place.cache_bytes,
        }
        self._weights = torch.from_numpy(weights)
        x = rng.standard_normal(product.input_shape, np.float32)
        self._x = torch.from_numpy(x).to(self._device, torch.float16)
        self.packed_bytes = packed + 2 * (x.size + m * n)

    def packed(self) -> Subject:
        """Ours, quantising x included."""
        index = torch.zeros(1, dtype=torch.int32, device=self._device)
        kernel, kernels = to_kernel_layout(self._layer), self._place.gpu.kernels
        modules = [
            PackedModule(DeviceLayer.in_order("product", self._layer, kernel, kernels), index)
            for _ in range(self._copies)
        ]
        return self._recorded(OURS, (partial(one, self._x) for one in modules))

    def float16(self) -> Subject:
        """cuBLAS; of a convolution cuDNN, channels last."""
        weight, product = self._weights, self._product
        if product.side:
            weight = weight.reshape(-1, 3, 3, product.channels).permute(0, 3, 1, 2)
            x = self._x.to(memory_format=torch.channels_last)
            form: dict[str, Any] = {"memory_format": torch.channels_last}
        else:
            x, form = self._x, {}
        sets = [
            weight.to(self._device, torch.float16, copy=True, **form) for _ in range(self._copies)
        ]
        if product.side:
            runs = (partial(torch.nn.functional.conv2d, x, w, padding=1) for w in sets)
        else:
            runs = (partial(torch.nn.functional.linear, x, w) for w in sets)
        return self._recorded(FLOAT16, runs)

    def int8(self) -> Subject:
        """cuBLAS' int8 product of the same sizes: no quantising, no gathering of a convolution's
        columns, int32 out."""
        m, n, k = self._product.sizes
        a = torch.ones(max(m, _LEAST_INT8_ROWS), k, dtype=torch.int8, device=self._device)
        sets = [
            torch.ones(n, k, dtype=torch.int8, device=self._device) for _ in range(self._copies)
        ]
        return self._recorded(INT8, (partial(torch._int_mm, a, w.t()) for w in sets))

    def _recorded(self, name: str, runs: Iterator[Callable[[], torch.Tensor]]) -> Subject:
        calls = list(runs)

        def all_calls() -> torch.Tensor:
            for call in calls[:-1]:
                call()
            return calls[-1]()

        with torch.no_grad():
            recorder = self._place.recorder()
            recorder.warm_up(all_calls)
            recording = recorder.record(all_calls)

        def replay() -> object:  # and keep what the recording reads
            recording.replay()
            return calls

        return Subject(name, replay, len(calls))
