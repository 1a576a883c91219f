"""What a component's folder holds, before any class of a library reads it.

Libraries follow an index of shards wherever it points, fill missing weights with random numbers,
and may fetch code that a config asks for. None of that happens to a folder that passes here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import BundleError
from ...files import MAX_JSON_BYTES, parse_json
from ...tensor_headers import elements, tensor_shapes
from ...weight_names import WeightName, heads

_CODE_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "auto_map",
    "custom_pipelines",
    "quantization_config",
)
"""Keys of a config that make a library load kernels, code or other packages."""


@dataclass(frozen=True)
class StoredWeights:
    """How many tensors and numbers a component's files hold."""

    tensors: int
    elements: int


def require_sound(folder: Path) -> StoredWeights:
    """Look at a component's config and the headers of its weights.

    Raises :class:`BundleError` on a config that asks for code, and on shards that are not in the
    folder; CheckpointError on files that are not whole.
    """
    config = folder / "config.json"
    if config.is_file():
        asked = [key for key in _CODE_KEYS if _json(config).get(key) is not None]
        if asked:
            raise BundleError(
                "The component asks for code or kernels",
                where=config,
                why=f"Its config has {', '.join(asked)}",
                fix="Remove that, if the component works without",
            )
    names = [path.name for path in folder.iterdir()]
    if "adapter_config.json" in names:
        raise BundleError("The component is an adapter", where=folder, fix="Merge it first")
    found = [head for head in heads(names) if head.format == "safetensors"]
    if not found:
        raise BundleError("The component has no weights", where=folder, why="No safetensors")
    shapes: dict[str, tuple[int, ...]] = {}
    for name in _files(folder, found[0], names):
        shapes |= tensor_shapes(folder / name)
    return StoredWeights(len(shapes), elements(shapes))


def _files(folder: Path, head: WeightName, names: list[str]) -> list[str]:
    if not head.is_index:
        return [head.name]
    placed = _json(folder / head.name).get("weight_map")
    shards = set(placed.values()) if isinstance(placed, dict) else set()
    if not shards or not shards <= set(names):
        raise BundleError(
            "A shard is not a file of the component",
            where=folder / head.name,
            why=f"{sorted(map(str, shards - set(names)))[:3]}",
        )
    return sorted(shards)


def _json(path: Path) -> dict:
    with path.open("rb") as stream:
        return parse_json(stream.read(MAX_JSON_BYTES + 1), path, BundleError)
