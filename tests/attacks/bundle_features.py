"""Attacks on a bundle's cached temporal features, hashes fixed up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mpq_export.bundle import CONFIG, read_bundle
from mpq_export.bundle_features import FEATURE_TENSORS, MAX_REMOVED_WEIGHTS
from mpq_export.lowering.exporter import export_graph
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.names import Runtime

from .attack import CORRECT, EITHER, Attack
from .bundle_files import read
from .bundle_models import open_in_torch
from .bundles import Make, Tensors, cached, handmade, with_config, with_json, with_tensors
from .lowered_models import predict

AREA = "cached features"
CODES, SCALE, OFFSET = FEATURE_TENSORS.values()
PROJECTION = "mid_block.resnets.0.time_emb_proj"


def lower(folder: Path) -> None:
    """The door: tracing the model."""
    export_graph(read_bundle(folder))


def last_label_in_torch(folder: Path) -> None:
    """The door: the torch denoiser with the largest label that the model has."""
    import torch

    denoiser = open_denoiser(read_bundle(folder), Runtime.TORCH)
    denoiser(torch.zeros(1, 2, 8, 8), 5.0, class_labels=torch.tensor([3]))


def _temporal(edit: Callable[[dict[str, Any]], Any], base: Make = handmade) -> Make:
    return with_json(CONFIG, lambda data: edit(data["quantization_config"]["temporal"]), base)


def _set(base: Make = handmade, **change: Any) -> Make:
    return _temporal(lambda temporal: temporal.update(change), base)


def _removed(name: str, shape: Any, base: Make = handmade) -> Make:
    return _temporal(lambda temporal: temporal["removed"].update({name: shape}), base)


def _values(name: str, index: Any, value: Any) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors[name].__setitem__(index, value)


def _as(name: str, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: edit(tensors[name])})


def _also_feature(name: str, shape: list[int]) -> Make:
    """Another layer of the model is said to be a feature, with channels in the table, and is left
    out of the layers."""

    def edit_config(data: dict[str, Any]) -> None:
        config = data["quantization_config"]
        config["layers"].pop(name, None)
        config["temporal"]["removed"][name] = shape
        config["temporal"]["features"].append(name)

    def edit_tensors(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.startswith(f"{name}.")]:
            del tensors[key]
        for key in (CODES, SCALE, OFFSET):
            more = np.zeros((*tensors[key].shape[:-1], shape[0]), tensors[key].dtype)
            tensors[key] = np.concatenate([tensors[key], more], axis=-1)

    return with_tensors(edit_tensors, with_json(CONFIG, edit_config, cached))


TENSORS: dict[str, Callable[[Tensors], Any]] = {
    **{f"{name} is missing": lambda t, name=name: t.pop(name) for name in FEATURE_TENSORS.values()},
    **{
        f"{name} as {dtype}": _as(name, lambda v, dtype=dtype: v.astype(dtype))
        for name in FEATURE_TENSORS.values()
        for dtype in ("f8", "f2", "i4", "u1", "?")
    },
    **{
        f"{name} with {what}": _as(name, edit)
        for name in FEATURE_TENSORS.values()
        for what, edit in {
            "a dimension more": lambda v: v[None],
            "no dimension": lambda v: v.reshape(-1)[0],
            "no elements": lambda v: v[..., :0],
            "a channel less": lambda v: v[..., :-1],
            "a channel more": lambda v: np.concatenate([v, v[..., :1]], axis=-1),
        }.items()
    },
    "a step less": _as(CODES, lambda v: v[:-1]),
    "a step more": _as(CODES, lambda v: np.concatenate([v, v[:1]])),
    "no labels at all": _as(CODES, lambda v: v[:, :0]),
    "a code of -128": _values(CODES, (0, 0, 0), -128),
    **{
        f"a {name} of {value}": _values(name, 0, value)
        for name in (SCALE, OFFSET)
        for value in (np.nan, np.inf, -np.inf)
    },
    "a scale of -1": _values(SCALE, 0, -1),
    "a scale of 1e-40": _values(SCALE, 0, 1e-40),
    "a scale of 0 with codes": _values(SCALE, 0, 0),
    "a scale of 3e38": _values(SCALE, 0, 3e38),
    "a tensor under a removed layer's name": lambda t: t.update(
        {"time.embed.weight": np.zeros((5, 7), np.float32)}
    ),
    "another table": lambda t: t.update({"mpq.features.zero": np.zeros(5, np.float64)}),
}
CONFIGS: dict[str, Make] = {
    "no table in version 2": with_json(
        CONFIG, lambda data: data["quantization_config"].pop("temporal")
    ),
    **{
        f"temporal of {value!r}": with_json(
            CONFIG, lambda data, value=value: data["quantization_config"].update(temporal=value)
        )
        for value in ([], "x", 5, True, {})
    },
    **{f"no {key}": _temporal(lambda t, key=key: t.pop(key)) for key in ("features", "removed")},
    **{
        f"features of {value!r}": _set(features=value)
        for value in ([], ["time.a"], ["time.a", "time.a"], ["time.a", "time.c"], "time.a", [1],
                      ["time.a", "time.b", "time.embed"], None)
    },
    **{
        f"labels of {value!r}": _set(labels=value)
        for value in ("", "../x", 5, "a" * 65, ["class_labels"])
    },
    "labels of nobody": _temporal(lambda t: t.pop("labels")),
    **{
        f"a removed layer of {str(value)[:30]}": _removed("time.embed", value)
        for value in ([], [5], [5, 7, 1], [0, 7], [-5, 7], [5.0, 7], "57", None, [True, 7],
                      [1 << 30, 1], [1 << 20, 1 << 20], [10**400, 1])
    },
    "a removed layer that is there": _removed("blocks.0.fc", [5, 40]),
    **{
        f"a removed layer called {name[:20]!r}": _removed(name, [5, 7])
        for name in ("", "..", "a/b", "a\n", "a" * 513)
    },
    "all that may be removed, twice": _temporal(
        lambda t: t["removed"].update({n: [MAX_REMOVED_WEIGHTS, 1] for n in ("x", "y")})
    ),
    "an unknown key": _set(auto_map={}),
    "errors that are words": _set(errors={"time.a": ["a"]}),
}  # fmt: skip
MODELS: dict[str, Make] = {
    "a removed layer that no model has": _removed("nothing", [5, 7], cached),
    "a removed convolution": _removed("conv_in", [8, 18], cached),
    "a removed normalisation": _removed("conv_norm_out", [8, 1], cached),
    "a removed list of layers": _removed("down_blocks", [8, 8], cached),
    "a removed layer of another shape": _removed("time_embedding.linear_1", [32, 9], cached),
    "a removed layer turned round": _removed("class_embedding", [4, 32], cached),
    "500 million removed weights": _removed("nothing", [MAX_REMOVED_WEIGHTS - 9999, 1], cached),
    "a huge model of removed weights": with_config(
        _removed("nothing", [MAX_REMOVED_WEIGHTS - 9999, 1], cached),
        block_out_channels=[8192, 16384],
    ),
    "labels that the model does not take": _set(cached, labels="encoder_hidden_states"),
    "a label less than the model has": with_tensors(
        lambda t: t.update({CODES: np.ascontiguousarray(t[CODES][:, :3])}), cached
    ),
    "a label more than the model has": with_tensors(
        lambda t: t.update({CODES: np.concatenate([t[CODES], t[CODES][:, :1]], axis=1)}), cached
    ),
    "a feature of an attention": _also_feature("mid_block.attentions.0.to_q", [16, 16]),
    "a feature of a convolution": _also_feature("conv_out", [2, 72]),
}
_SEEN_IN_TENSORS = (
    "labels of nobody",
    "features of ['time.a']",
    "features of ['time.a', 'time.b', 'time.embed']",
)

ATTACKS = [
    *(Attack(AREA, what, with_tensors(edit), read, names="weights")
      for what, edit in TENSORS.items()),
    *(Attack(AREA, what, make, read, names="weights" if what in _SEEN_IN_TENSORS else "config")
      for what, make in CONFIGS.items()),
    *(Attack(AREA, f"in torch, {what}", make, open_in_torch) for what, make in MODELS.items()),
    *(Attack(AREA, f"traced, {what}", make, lower) for what, make in MODELS.items()),
    Attack(AREA, "a graph of other features",
           with_tensors(_values(OFFSET, 0, 5), cached), predict(Runtime.ORT),
           names="features.offset"),
    Attack(AREA, "nothing at all: the features in torch", cached, last_label_in_torch, CORRECT),
    Attack(AREA, "nothing at all: the features in a graph", cached, predict(Runtime.ORT), CORRECT),
    Attack(AREA, "nothing at all: read", handmade, read, CORRECT),
    Attack(AREA, "an empty reason", _set(computed={"": ""}), read, EITHER),
]  # fmt: skip
