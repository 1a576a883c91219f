"""Layers, or parts of them, as jobs of their own: each is quantised from its weights and inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..core.activation_quantizer import channel_energy, table_fit
from ..core.bit_allocation import Allocation
from ..core.channel_parts import part_name
from ..core.equalization import smoothing_factors
from ..core.integer_reference import PackedLayer, check_layer, column_factors
from ..core.layers import Quantizable, geometry_of, part_weights, weight_matrix
from ..core.planes import ContractError, pack
from ..core.weight_quantizer import quantize_weight
from ..errors import LayerError
from ..training.calibration import InputStatistics
from .layer_parts import Part, part_statistics
from .plan import LayerChoices


@dataclass(frozen=True)
class LayerJob:
    """A layer to be quantised, or a part of one.

    Attributes:
        owner: the name of the module.
        module, choices: itself, and how it is quantised.
        seen: its inputs at calibration, of all channels.
        gain: float32 ``[I]``, what inputs are divided by; None is smoothing's factors or nothing.
        part: some channels with their shifts; None is all of them without.
        place: of one among several parts, of which the first has the bias.
    """

    owner: str
    module: Quantizable
    choices: LayerChoices
    seen: InputStatistics
    gain: torch.Tensor | None
    part: Part | None = None
    place: int | None = None

    @property
    def name(self) -> str:
        """Of the layer that is made."""
        return self.owner if self.place is None else part_name(self.owner, self.place)


def quantized_in_order(jobs: list[LayerJob]) -> Iterator[PackedLayer]:
    """The packed layers of all jobs, several at work at a time, each in one thread.

    A fit is many small operations, which gain little from more threads of their own. Jobs are let
    go one by one, with the weights and inputs they hold.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[PackedLayer]] = deque()
    jobs.reverse()
    try:
        while jobs or waiting:
            while jobs and len(waiting) <= threads:
                waiting.append(pool.submit(_quantize_layer, jobs.pop()))
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def split_job(whole: LayerJob, parts: list[Part]) -> list[LayerJob]:
    """A layer, or its parts."""
    if not parts:
        return [whole]
    if len(parts) == 1:
        return [replace(whole, part=parts[0])]
    return [replace(whole, part=part, place=place) for place, part in enumerate(parts)]


def _quantize_layer(job: LayerJob) -> PackedLayer:
    module, choices, seen, gain = job.module, job.choices, job.seen, job.gain
    conv, weights = geometry_of(module), weight_matrix(module)
    rows, channels = len(weights), seen.low.shape[1]
    if gain is None and choices.smoothing:
        gain = smoothing_factors(
            seen.channel_range(), module.weight.detach(), conv.group if conv else 1
        )
    gain = torch.ones(channels) if gain is None else gain
    shift = np.zeros(channels, np.int8)
    if job.part is not None:
        own = job.part.channels
        weights = part_weights(weights, weights.shape[1] // channels, own)
        seen, gain, shift = part_statistics(seen, own), gain[own.astype(np.int64)], job.part.shift
    factor = torch.exp2(-torch.from_numpy(shift).float()) / gain
    weights = weights * torch.from_numpy(column_factors(gain.numpy(), conv, rows))
    inputs = seen.patches
    if inputs is not None:
        inputs = inputs * torch.from_numpy(column_factors((1 / gain).numpy(), conv, rows))
    allocation = choices.allocation if conv is None or conv.group == 1 else Allocation.EQUAL
    if rows < 2:
        allocation = Allocation.EQUAL
    energy = channel_energy(weights, conv) * torch.exp2(2 * torch.from_numpy(shift).float())
    table = table_fit(choices.tables)(
        seen.samples * factor[seen.sample_channels],
        energy[seen.sample_channels],
        (seen.low * factor).amin(dim=1),
        (seen.high * factor).amax(dim=1),
        choices.bits.activation,
    )
    # A copy, like the parameters that stay: a view would keep the whole checkpoint mapped.
    bias = torch.zeros(rows)
    if module.bias is not None and not job.place:
        bias = module.bias.detach().float().clone()
    try:
        matrix = quantize_weight(
            weights, choices.bits.weight, choices.weight_form, allocation, inputs
        )
        layer = PackedLayer(
            weight=pack(matrix),
            bias=bias.numpy(),
            act_scale=table.scale,
            act_zero_point=table.zero_point,
            act_bits=choices.bits.activation,
            input_factor=factor.numpy(),
            input_shift=shift,
            conv=conv,
        )
        check_layer(layer)
    except ContractError as error:
        raise LayerError("The layer cannot be packed", where=job.name, why=str(error)) from error
    return layer
