"""Which layers are reconstructed together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "Attention")
"""diffusers' classes whose layers are fitted to the output of the whole, outermost first (BRECQ's
residual, transformer and attention blocks)."""


@dataclass(frozen=True)
class Block:
    """A module by name and the quantised layers inside it, itself where it is one."""

    name: str
    layers: tuple[str, ...]


def blocks_of(model: nn.Module, layers: Collection[str]) -> list[Block]:
    """Every layer once, in the model's order: those of a block together, the others alone."""
    blocks: list[Block] = []
    taken: set[str] = set()
    for name, module in model.named_modules():
        if type(module).__name__ in BLOCKS:
            own = tuple(la for la in layers if la.startswith(f"{name}.") and la not in taken)
        else:
            own = (name,) if name in layers and name not in taken else ()
        if own:
            blocks.append(Block(name, own))
            taken.update(own)
    return blocks
