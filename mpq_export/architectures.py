"""What the package knows of each diffusers model class: its inputs and its special layers.

Works on config dictionaries alone, so that boards without torch can read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .errors import CheckpointError

Config = Mapping[str, Any]

MAX_SIDE = 4096
"""Largest height and width of a sample; a config cannot make the program allocate more."""


@dataclass(frozen=True)
class ConditionSpec:
    """An input beside the sample and the timestep, one row per image.

    ``classes`` is the number of labels of an int64 ``[B]`` input.
    """

    name: str
    classes: int


@dataclass(frozen=True)
class Architecture:
    """A model class that can be quantised.

    Attributes:
        class_name: diffusers' class.
        eight_bit: layer-name patterns kept at W8A8, with the reason; the first match counts.
        sample_shape: (channels, height, width) of one sample, from the config.
        conditions: further inputs, from the config; raises CheckpointError on unsupported ones.
    """

    class_name: str
    eight_bit: Mapping[str, str]
    sample_shape: Callable[[Config], tuple[int, int, int]]
    conditions: Callable[[Config], tuple[ConditionSpec, ...]]

    def eight_bit_reason(self, layer: str) -> str | None:
        """Why a layer is kept at W8A8, or None if it takes the requested bits."""
        return next((why for pat, why in self.eight_bit.items() if fnmatchcase(layer, pat)), None)


def _unet2d_sample(config: Config) -> tuple[int, int, int]:
    size = config.get("sample_size")
    if size is None:
        raise CheckpointError(
            "The model has no sample_size",
            where="config.json",
            why="Calibration draws noise of that size",
            fix="Add sample_size to config.json",
        )
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or not all(isinstance(s, int) and 1 <= s <= MAX_SIDE for s in sides):
        raise CheckpointError(
            f"sample_size {size!r} is not a size",
            where="config.json",
            why=f"It is one or two whole numbers, 1 to {MAX_SIDE}",
        )
    return config["in_channels"], sides[0], sides[1]


def _unet2d_conditions(config: Config) -> tuple[ConditionSpec, ...]:
    if config.get("class_embed_type") is not None:
        raise CheckpointError(
            f"class_embed_type '{config['class_embed_type']}' is not supported",
            where="config.json",
            why="Only label embeddings (num_class_embeds) are",
        )
    if config.get("time_embedding_type", "positional") not in ("positional", "fourier"):
        raise CheckpointError(
            f"time_embedding_type '{config['time_embedding_type']}' is not supported",
            where="config.json",
            why="Exported models take the timestep as a number, not as the index of a table",
        )
    classes = config.get("num_class_embeds")
    return (ConditionSpec("class_labels", classes),) if classes else ()


ARCHITECTURES = {
    "UNet2DModel": Architecture(
        class_name="UNet2DModel",
        eight_bit={
            "conv_in": "first convolution",
            "conv_out": "last convolution",
            "time_embedding.*": "timestep embedding",
        },
        sample_shape=_unet2d_sample,
        conditions=_unet2d_conditions,
    ),
}


def architecture_of(config: Config) -> Architecture:
    """The architecture a component config names; raises :class:`CheckpointError` if unknown."""
    name = config.get("_class_name")
    try:
        return ARCHITECTURES[str(name)]
    except KeyError:
        raise CheckpointError(
            f"Models of class '{name}' are not supported",
            where="config.json",
            why=f"Supported classes: {', '.join(sorted(ARCHITECTURES))}",
        ) from None
