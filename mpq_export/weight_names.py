"""Which files of a folder hold its weights, by their names alone.

diffusers and transformers write ``STEM[.VARIANT].safetensors``, or an index of shards,
``STEM.safetensors.index[.VARIANT].json`` (older: ``STEM.VARIANT.safetensors.index.json``) beside
``STEM[.VARIANT]-00001-of-00002.safetensors``; the same with ``.bin`` for pickles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

DENOISER_STEM = "diffusion_pytorch_model"
_FORMATS = ("safetensors", "bin")
_NAME = re.compile(
    r"(?P<stem>\w+)"
    r"(\.(?P<variant>[\w-]+?))?"
    r"(?P<shard>-\d+-of-\d+(\.(?P<late_variant>[\w-]+))?)?"
    r"\.(?P<format>safetensors|bin)"
    r"(?P<index>\.index(\.(?P<index_variant>[\w-]+))?\.json)?",
    re.ASCII,
)


@dataclass(frozen=True)
class WeightName:
    """What a weight file's name says; ``variant`` is for example ``fp16`` or ``non_ema``."""

    name: str
    stem: str
    variant: str | None
    format: str
    is_shard: bool
    is_index: bool


def parse_weight_name(name: str) -> WeightName | None:
    """The parts of a weight file's name; None for other files."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return WeightName(
        name,
        match["stem"],
        match["variant"] or match["late_variant"] or match["index_variant"],
        match["format"],
        match["shard"] is not None,
        match["index"] is not None,
    )


def heads(names: Iterable[str], stem: str | None = None) -> list[WeightName]:
    """Whole files and indices of shards, the preferred first.

    No variant goes before a variant, safetensors before pickles, a whole file before shards.
    ``stem`` leaves other files out.
    """
    parsed = filter(None, map(parse_weight_name, names))
    found = [w for w in parsed if not w.is_shard and stem in (None, w.stem)]
    return sorted(
        found,
        key=lambda w: (w.variant is not None, _FORMATS.index(w.format), w.is_index, w.name),
    )


def files_of(head: WeightName, names: Iterable[str]) -> list[str]:
    """A head with, for an index, the shards that its name announces."""
    if not head.is_index:
        return [head.name]
    parsed = filter(None, map(parse_weight_name, names))
    return [head.name] + [
        w.name
        for w in parsed
        if w.is_shard and (w.stem, w.variant, w.format) == (head.stem, head.variant, head.format)
    ]
