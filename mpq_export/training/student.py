"""The model that learns: the full-precision model with trained layers in its quantised places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.channel_parts import module_of, parts_by_module
from ..core.integer_reference import PackedLayer, check_layer, column_factors
from ..core.layers import Quantizable, install_layers, part_of, shared_copy, weight_matrix
from ..core.low_rank import LowRankBranch, error_branch, zero_branch
from ..core.low_rank_form import LowRankBase, LowRankStart
from ..core.planes import ContractError, unpack
from ..core.trained_layer import BatchEntries, TrainedLayer
from ..core.weight_form import WeightForm
from ..errors import LayerError
from .choices import Trained, TrainingChoices


@dataclass(frozen=True)
class LayerStart:
    """A layer as first quantised, and how its weights may go on.

    Attributes:
        packed: itself.
        form, bits: of its planes.
        channels: int32 ``[I]``, the input channels of one that is a part of a module.
        is_rounded: whether its codes were learned, so that training goes on from them; else it
            begins with the full-precision weight.
    """

    packed: PackedLayer
    form: WeightForm
    bits: int
    channels: NDArray[np.int32] | None = None
    is_rounded: bool = False


@dataclass(frozen=True)
class Student:
    """A model under training.

    Attributes:
        module: called like the full-precision model.
        layers: its trained layers by name.
        entries: set before every call.
    """

    module: nn.Module
    layers: Mapping[str, TrainedLayer]
    entries: BatchEntries

    def project(self) -> None:
        """After an update: every layer back into the ranges of the contract."""
        for layer in self.layers.values():
            layer.project()

    def packed(self) -> dict[str, PackedLayer]:
        """The layers as they are deployed; raises LayerError where one cannot be."""
        result = {}
        for name, layer in self.layers.items():
            try:
                result[name] = layer.packed()
                check_layer(result[name])
            except ContractError as error:
                raise LayerError(
                    "The trained layer cannot be packed",
                    where=name,
                    why=str(error),
                    fix="Train with lower rates",
                ) from error
        return result

    def floating_point(self) -> dict[str, np.ndarray]:
        """Float32 parameters and buffers of all that is not quantised, by diffusers' names."""
        inside = tuple(f"{name}." for name in self.layers)
        result = {
            name: value.detach().float().cpu().numpy().copy()
            for name, value in self.module.state_dict().items()
            if not name.startswith(inside)
        }
        for name, array in result.items():
            if not np.isfinite(array).all():
                raise LayerError(
                    "A trained parameter is not finite", where=name, fix="Train with lower rates"
                )
        return result

    def parameter_groups(self, choices: TrainingChoices) -> list[dict[str, Any]]:
        """Groups for the optimiser, each with its rate; parameters left out do not train."""
        groups: list[dict[str, Any]] = []
        for layer in self.layers.values():
            weights = [layer.weight] if layer.branch is None else [*layer.branch.parameters()]
            rate = choices.weight_rate * layer.levels.mean_spacing()
            groups.append({"params": weights, "lr": rate})
        layers = self.layers.values()
        groups += [
            {
                "params": [p for la in layers for p in la.levels.parameters()],
                "lr": choices.level_rate,
            },
            {"params": [la.log_act_scale for la in layers], "lr": choices.table_rate},
        ]
        for bits in sorted({layer.act_bits for layer in layers}):
            points = [layer.act_zero_point for layer in layers if layer.act_bits == bits]
            groups.append({"params": points, "lr": choices.table_rate * (2**bits - 1)})
        own = {id(p) for la in layers for p in la.parameters() if p is not la.bias}
        others = [p for p in self.module.parameters() if id(p) not in own]
        groups.append({"params": others, "lr": choices.float_rate})
        trained = [
            {**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
        ]
        return [group for group in trained if group["params"] and group["lr"] > 0]


def build_student(
    teacher: nn.Module,
    starts: Mapping[str, LayerStart],
    choices: TrainingChoices,
    seed: int,
) -> Student:
    """A student that begins as first quantised.

    Args:
        teacher: the full-precision model; it is not changed, and weights that the student does not
            train are shared with it.
        starts: its quantised layers by name.
        choices: what is trained.
        seed: of the random factors of low-rank branches.
    """
    module = shared_copy(teacher)
    entries, layers = BatchEntries(), {}
    generator = torch.Generator().manual_seed(seed)
    for name, start in starts.items():
        original = cast(
            Quantizable,
            teacher.get_submodule(name if start.channels is None else module_of(name)),
        )
        if start.channels is not None:
            original = part_of(original, start.channels, has_bias=True)
        weight, branch = weight_matrix(original).cpu(), None
        # Layers at eight bits are rounded too finely to need one (MPQ-DM gives them none).
        if choices.trained is Trained.LOW_RANK and start.bits < 8:
            weight, branch = _with_branch(weight, start.packed, choices, generator)
        elif start.is_rounded:
            weight = _quantized(start.packed)
        layers[name] = TrainedLayer(start.packed, weight, start.form, start.bits, entries, branch)
    channels = {name: s.channels for name, s in starts.items() if s.channels is not None}
    packed = {name: start.packed for name, start in starts.items()}
    install_layers(module, packed, channels, lambda name, _layer: layers[name])
    everything = choices.trained is Trained.FULL
    later = {part for parts in parts_by_module(channels).values() for part in parts[1:]}
    for name, layer in layers.items():
        layer.weight.requires_grad_(everything)
        # A module has one bias, its first part's: that of each would learn as fast as the sum.
        layer.bias.requires_grad_(everything and name not in later)
    inside = tuple(f"{name}." for name in layers)
    for name, parameter in list(module.named_parameters()):
        if not name.startswith(inside):
            owner, _, key = name.rpartition(".")
            value = parameter.detach().float()
            own = nn.Parameter(value.clone() if everything else value, requires_grad=everything)
            setattr(module.get_submodule(owner), key, own)
    return Student(module, layers, entries)


def _with_branch(
    weight: torch.Tensor,
    packed: PackedLayer,
    choices: TrainingChoices,
    generator: torch.Generator,
) -> tuple[torch.Tensor, LowRankBranch]:
    """The weight that stays and the branch that is trained; both before smoothing."""
    rows, columns = weight.shape
    taps = 1 if packed.conv is None else int(np.prod(packed.conv.kernel_shape))
    quantized = _quantized(packed)
    base = quantized if choices.low_rank_base is LowRankBase.QUANTIZED else weight
    if choices.low_rank_start is LowRankStart.QUANTIZATION_ERROR:
        return base, error_branch(weight - quantized, taps, choices.rank)
    return base, zero_branch(rows, columns, taps, choices.rank, generator)


def _quantized(packed: PackedLayer) -> torch.Tensor:
    """What a layer's weight was quantised to, float32 ``[O, K]``, before smoothing."""
    shifted = packed.input_factor * np.exp2(packed.input_shift.astype(np.float32))
    factor = column_factors(shifted, packed.conv, packed.weight.rows)
    return torch.from_numpy(unpack(packed.weight).weights() * factor)
