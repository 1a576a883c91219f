"""The stage that learns how weights are rounded, block by block.

A block is given what the model gives it whose earlier blocks are rounded already, and is fitted to
what the full-precision block says in the full-precision model (BRECQ, arXiv 2102.05426; Q-Diffusion
and its successors draw the samples from all steps of the sampler). Activations are not quantised
meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.channel_parts import module_of, parts_by_module
from ..core.integer_reference import PackedLayer, column_factors
from ..core.layers import Quantizable, install_layers, part_of, shared_copy, weight_matrix
from ..core.learned_rounding import LearnedRounding, RoundedLayer
from ..core.planes import pack, unpack
from ..progress import ProgressReporter
from ..training.interruption import leave_if, stop_wish
from ..training.seeds import derived_seed
from .blocks import Block
from .calls import BlockCalls, record_calls, running_order, samples_of_block
from .choices import RoundingChoices
from .finished import FinishedParts, Layout, TensorLayout
from .walk import CalibrationWalk

_DOING = "rounding was learned"


@dataclass(frozen=True)
class RoundingErrors:
    """Relative errors of a block's outputs on its samples: of nearest and of learned rounding."""

    nearest: float
    learned: float


def learn_rounding(
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    layers: Mapping[str, PackedLayer],
    channels: Mapping[str, NDArray[np.int32]],
    blocks: Sequence[Block],
    choices: RoundingChoices,
    seed: int,
    finished: FinishedParts,
    progress: ProgressReporter,
) -> dict[str, PackedLayer]:
    """The layers of ``blocks`` with other codes, the levels the same.

    Args:
        model: of full precision; it is not changed.
        model_config: its config.
        walk: trajectories of it.
        layers: as first quantised, by module name.
        channels: int32 ``[I]`` of those that are parts of a module.
        blocks: in any order.
        choices: of the recipe.
        seed: of samples and batches.
        finished: blocks that an earlier run has finished are taken from there, others kept there.
        progress: told of every update.

    A block that is worse than with nearest rounding on its samples keeps that. Raises Interrupted
    on Ctrl-C or SIGTERM; finished blocks are kept.
    """
    progress.start("learn rounding", len(blocks) * choices.iterations)
    by_name = {block.name: block for block in blocks}
    order = running_order(model, model_config, walk, by_name)
    student, result = shared_copy(model).requires_grad_(False), dict(layers)
    with stop_wish() as wished:
        for block in (by_name[name] for name in order):
            rounded = _install(student, model, block, layers, channels)
            part = f"rounding {block.name}"
            known = finished.load(part, codes_layout(rounded, layers))
            if known is None:
                known = _learn(
                    model,
                    student,
                    model_config,
                    walk,
                    block,
                    rounded,
                    choices,
                    seed,
                    progress,
                    wished,
                )
                finished.save(part, known)
            else:
                progress.advance(choices.iterations)
            for name in rounded:
                result[name] = with_codes(layers[name], known[name])
                rounded[name].settle(torch.from_numpy(unpack(result[name].weight).weights()))
        leave_if(wished, _DOING)
    return result


def _install(
    student: nn.Module,
    model: nn.Module,
    block: Block,
    layers: Mapping[str, PackedLayer],
    channels: Mapping[str, NDArray[np.int32]],
) -> dict[str, RoundedLayer]:
    """Layers that learn, in the places of the block's, by name; a module's parts have several."""
    rounded = {}
    parts = parts_by_module(channels)
    for name in (part for module in block.layers for part in parts.get(module, [module])):
        if name in channels:
            whole = cast(Quantizable, model.get_submodule(module_of(name)))
            module = part_of(whole, channels[name], has_bias=True)
        else:
            module = cast(Quantizable, model.get_submodule(name))
        rounded[name] = rounded_layer(layers[name], module)
    own = {name: layers[name] for name in rounded}
    install_layers(student, own, channels, lambda name, _layer: rounded[name])
    return rounded


def codes_layout(names: Iterable[str], layers: Mapping[str, PackedLayer]) -> Layout:
    """Of the codes of some layers, uint8 ``[O, K]`` by name; a row of P planes has ``2^P``."""
    matrices = {name: unpack(layers[name].weight) for name in names}
    return {
        name: TensorLayout(
            torch.uint8, own.codes.shape, 0, 2 ** torch.from_numpy(own.plane_count) - 1
        )
        for name, own in matrices.items()
    }


def rounded_layer(start: PackedLayer, module: Quantizable) -> RoundedLayer:
    """A layer whose rounding can be learned, from its full-precision ``module``."""
    factor = start.input_factor * np.exp2(start.input_shift.astype(np.float32))
    gain = column_factors(1 / factor, start.conv, start.weight.rows)
    weights = weight_matrix(module) * torch.from_numpy(gain)
    rounding = LearnedRounding(weights, unpack(start.weight))
    bias = torch.from_numpy(start.bias.copy())
    return RoundedLayer(rounding, factor, bias, start.conv)


def _learn(
    model: nn.Module,
    student: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    block: Block,
    rounded: Mapping[str, RoundedLayer],
    choices: RoundingChoices,
    seed: int,
    progress: ProgressReporter,
    wished: Callable[[], bool],
) -> dict[str, torch.Tensor]:
    """The codes of a block's layers, uint8 ``[O, K]``."""
    original, own = model.get_submodule(block.name), student.get_submodule(block.name)
    samples = samples_of_block(model, model_config, walk, original, choices.samples)
    chosen = walk.chosen(samples, derived_seed(f"samples of {block.name}", seed))
    targets = record_calls(model, model_config, chosen, original).outputs
    # Soft weights begin as the real ones, so here the block's own do not matter.
    calls = record_calls(student, model_config, chosen, own)
    parts = {name: cast(LearnedRounding, layer.rounding) for name, layer in rounded.items()}
    batches = torch.Generator().manual_seed(derived_seed(f"batches of {block.name}", seed))
    fit_rounding(own, parts.values(), calls, targets, choices, batches, progress, wished)
    start = {name: torch.from_numpy(part.start.weights()) for name, part in parts.items()}
    learned = {name: part.hard() for name, part in parts.items()}
    errors = RoundingErrors(
        _error(own, rounded, start, calls, targets, choices.batch),
        _error(own, rounded, learned, calls, targets, choices.batch),
    )
    progress.note(f"{block.name}: {errors.nearest:.4f} to {errors.learned:.4f}")
    better = errors.learned < errors.nearest
    return {
        name: torch.from_numpy((part.matrix() if better else part.start).codes)
        for name, part in parts.items()
    }


def fit_rounding(
    block: nn.Module,
    roundings: Iterable[LearnedRounding],
    calls: BlockCalls,
    targets: torch.Tensor,
    choices: RoundingChoices,
    batches: torch.Generator,
    progress: ProgressReporter,
    wished: Callable[[], bool] = lambda: False,
) -> None:
    """Learn the roundings inside a block for the least squared error of its output.

    Args:
        block: called like the module whose calls were recorded.
        roundings: those that learn.
        calls: its arguments.
        targets: float32 ``[N, ...]``, what it should give.
        choices: of the recipe.
        batches: draws the samples of the updates.
        progress: told of every update.
        wished: whether to stop; Interrupted is raised then.

    The loss is the mean over samples and places of the squared error, summed over channels, and the
    penalty.
    """
    learning = list(roundings)
    optimizer = torch.optim.Adam([rounding.logit for rounding in learning], choices.rate)
    for iteration in range(choices.iterations):
        leave_if(wished, _DOING)
        rows = torch.randint(0, len(targets), (choices.batch,), generator=batches)
        loss = _squared_error(_output(block, calls, rows), targets[rows])
        beta = choices.beta(iteration)
        if beta is not None:
            loss = loss + choices.penalty * sum(part.penalty(beta) for part in learning)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress.advance()


def _output(block: nn.Module, calls: BlockCalls, rows: torch.Tensor) -> torch.Tensor:
    args, kwargs = calls.arguments(rows)
    output = block(*args, **kwargs)
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return first.float()


def _squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    channel = 1 if output.dim() == 4 else -1
    return (output - target).square().sum(dim=channel).mean()


@torch.no_grad()
def _error(
    block: nn.Module,
    rounded: Mapping[str, RoundedLayer],
    weights: Mapping[str, torch.Tensor],
    calls: BlockCalls,
    targets: torch.Tensor,
    batch: int,
) -> float:
    """Relative error of the block's output on all samples, with these weights."""
    for name, layer in rounded.items():
        layer.fix(weights[name])
    noise = sum(
        float((_output(block, calls, rows) - targets[rows]).square().sum())
        for rows in torch.arange(len(targets)).split(batch)
    )
    signal = float(targets.square().sum())
    return float((noise / signal) ** 0.5) if signal > 0 else 0.0


def with_codes(layer: PackedLayer, codes: torch.Tensor) -> PackedLayer:
    """The layer with other codes ``[O, K]`` of the same levels."""
    matrix = replace(unpack(layer.weight), codes=codes.numpy())
    return replace(layer, weight=pack(matrix))
