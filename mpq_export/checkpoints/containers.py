"""The state dict inside what trainers save, and the choice between trained and averaged weights.

Averaged (EMA) weights are what diffusion models draw samples with, so they are taken where a file
has both; the choice is noted. They are found as entries of their own (``{"model": .., "ema": ..}``:
DiT, k-diffusion, diffusers), behind a prefix of names (``ema_model.``), or as LDM keeps them
(``LitEma``: behind ``model_ema.``, names without their dots).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .state import State, Tensors, require_text_keys

_TRAINED_ENTRIES = (
    "state_dict", "model_state_dict", "model", "module", "net", "unet", "transformer", "denoiser",
)  # fmt: skip
_EMA_ENTRIES = (
    "ema", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema_model_state_dict",
    "ema_unet", "shadow",
)  # fmt: skip
_EMA_PREFIXES = ("ema_model.", "ema.")
_LDM_EMA = "model_ema."
_LDM_MODEL = "model."
_EMA_COUNTERS = {"decay", "num_updates", "initted", "step"}
_MAX_NESTING = 3


@dataclass(frozen=True)
class _Weights:
    """One set of weights in a file; ``entry`` says where."""

    entry: str
    tensors: Tensors
    is_ema: bool


def state_dict_of(content: Any, where: Path) -> State:
    """The weights that samples should be drawn with, out of a file's content.

    Raises :class:`CheckpointError` if there are none, or if their names are lost.
    """
    found = [part for weights in _weights_in(content, "", False, where) for part in _split(weights)]
    averaged = [weights for weights in found if weights.is_ema]
    trained = [weights for weights in found if not weights.is_ema]
    if not found:
        raise CheckpointError(
            "The file holds no state dict", where=where, why="Expected names with tensors"
        )
    if len(averaged or trained) > 1:
        raise CheckpointError(
            "The file holds several models",
            where=where,
            why=f"In {', '.join(w.entry for w in averaged or trained)}",
            fix="Save the one to quantise in a file of its own",
        )
    if not averaged:
        return State(trained[0].tensors)
    beside = f", not the trained ones ({trained[0].entry})" if trained else ""
    return State(
        averaged[0].tensors, (f"The averaged weights (EMA, {averaged[0].entry}) are used{beside}",)
    )


def _weights_in(content: Any, entry: str, is_ema: bool, where: Path) -> Iterator[_Weights]:
    if (mapping := require_text_keys(content)) is None:
        return
    if "shadow_params" in mapping:
        raise CheckpointError(
            "The averaged weights have no names",
            where=where,
            why="shadow_params is a list in the order of the model that was trained",
            fix="Copy them into the model (EMAModel.copy_to) and save that",
        )
    tensors = {name: value for name, value in mapping.items() if isinstance(value, Tensor)}
    if tensors and len(tensors) == len(mapping):
        yield _Weights(entry or "the whole file", tensors, is_ema)
    elif entry.count(".") < _MAX_NESTING:
        for name in (*_TRAINED_ENTRIES, *_EMA_ENTRIES):
            if name in mapping:
                inner = f"{entry}.{name}" if entry else name
                yield from _weights_in(mapping[name], inner, is_ema or name in _EMA_ENTRIES, where)


def _split(weights: _Weights) -> Iterator[_Weights]:
    """A state dict's trained and averaged parts, told by the prefixes of names."""
    tensors = weights.tensors
    for prefix in (*_EMA_PREFIXES, _LDM_EMA):
        averaged = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        if averaged:
            break
    else:
        yield weights
        return
    rest = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    averaged = {name: value for name, value in averaged.items() if name not in _EMA_COUNTERS}
    if prefix == _LDM_EMA and not any("." in name for name in averaged):
        averaged = _with_dots(averaged, rest)
    if rest.keys() - _EMA_COUNTERS:
        yield _Weights(f"{weights.entry} without {prefix}", rest, is_ema=False)
    yield _Weights(f"{prefix}*", averaged, is_ema=True)


def _with_dots(averaged: Tensors, trained: Tensors) -> Tensors:
    """LDM's averaged weights under the names of the trained ones, and all that has no average."""
    dotless: dict[str, list[str]] = {}
    for name in trained:
        if name.startswith(_LDM_MODEL):
            key = name.removeprefix(_LDM_MODEL).replace(".", "")
            dotless.setdefault(key, []).append(name)
    lost = [key for key in averaged if len(dotless.get(key, ())) != 1]
    unmatched = dotless.keys() - averaged.keys()
    if lost or unmatched:
        raise CheckpointError(
            "The averaged weights do not match the trained ones",
            where=_LDM_EMA.rstrip("."),
            why=f"Their names lost the dots, and {len(lost) + len(unmatched)} of them cannot be "
            f"told ({', '.join(sorted([*lost, *unmatched])[:3])})",
            fix=f"Save the file without the names that start with {_LDM_EMA}",
        )
    return {**trained, **{dotless[key][0]: value for key, value in averaged.items()}}
