"""The diffusers model of a bundle, with the caller's module in every quantised place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from .architectures import architecture_of
from .bundle import Bundle
from .bundle_features import TemporalConfig
from .cached_features import CachedFeatures
from .conditions import ClassLabels
from .core.channel_parts import parts_by_module
from .core.integer_reference import PackedLayer
from .core.layers import Quantizable, geometry_of, install_layers, replace_module
from .empty_model import build_empty_model
from .errors import BundleError

Removable = nn.Linear | nn.Embedding
"""Modules that a table of features may make unread."""


def cached_features_of(bundle: Bundle) -> CachedFeatures:
    """The bundle's temporal features, for the model of :func:`build_skeleton`.

    Raises BundleError where the table's labels are not those of the model.
    """
    config = bundle.quantization.temporal
    if config is None or bundle.features is None:
        return CachedFeatures(None, {}, None)
    if config.labels is not None:
        specs = architecture_of(bundle.model_config).conditions(bundle.model_config)
        spec = next((spec for spec in specs if spec.name == config.labels), None)
        labels = bundle.features.codes.shape[1]
        if not isinstance(spec, ClassLabels) or spec.count != labels:
            raise BundleError(
                "The table of temporal features is not the model's",
                where=bundle.path,
                why=f"It has {labels} labels of '{config.labels}'",
            )
    return CachedFeatures(bundle.features, config.widths(), config.labels)


def build_skeleton(
    bundle: Bundle,
    make_layer: Callable[[str, PackedLayer], nn.Module],
    features: CachedFeatures,
) -> nn.Module:
    """Build the model from its config, put ``make_layer(name, layer)`` in place, load the rest.

    Weights are never initialised: the parameters of quantised layers do not exist, all others are
    taken from the bundle. Layers whose features are cached give what ``features`` has selected.
    """
    packed = [(layer.weight.rows, layer.weight.columns) for layer in bundle.layers.values()]
    temporal = bundle.quantization.temporal
    removed: Mapping[str, list[int]] = {} if temporal is None else temporal.removed
    model = build_empty_model(
        bundle.model_config,
        len(bundle.parameters) + 2 * len(packed) + 2 * len(removed),
        sum(value.size for value in bundle.parameters.values())
        + sum(rows * (columns + 1) for rows, columns in packed)
        + sum(rows * (columns + 1) for rows, columns in removed.values()),
        BundleError("The bundle's config builds no model", where=bundle.path),
    )
    modules = dict(model.named_modules())
    for name, layer in bundle.layers.items():
        if name not in bundle.channels and not _fits(modules.get(name), layer):
            raise BundleError(f"The model has no such layer as {name}", where=bundle.path)
    for name, parts in parts_by_module(bundle.channels).items():
        if not _is_sum(modules.get(name), [bundle.layers[part] for part in parts]):
            raise BundleError(f"The model has no such layer as {name}", where=bundle.path)
    install_layers(model, bundle.layers, bundle.channels, make_layer)
    if temporal is not None:
        _remove(bundle, model, modules, temporal, features)
    state = {key: torch.from_numpy(value) for key, value in bundle.parameters.items()}
    own = {key for key, _ in model.named_parameters()}
    missing, unexpected = (
        sorted(own - state.keys()),
        sorted(state.keys() - dict(model.state_dict()).keys()),
    )
    if missing or unexpected:
        raise BundleError(
            "The bundle's parameters do not fit its config",
            where=bundle.path,
            why=f"Missing: {missing[:3]}; unexpected: {unexpected[:3]}",
        )
    try:
        model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise BundleError(
            "A parameter has the wrong shape", where=bundle.path, why=str(error)
        ) from error
    return model.eval().requires_grad_(False)


def _remove(
    bundle: Bundle,
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    temporal: TemporalConfig,
    features: CachedFeatures,
) -> None:
    """Put what stands for them in the places of the removed layers."""
    for name, shape in temporal.removed.items():
        module = modules.get(name)
        if not isinstance(module, Removable) or _weight_shape(module) != shape:
            raise BundleError(
                f"The model has no such layer as {name}",
                where=bundle.path,
                why=f"A layer of {shape} was removed",
            )
        replace_module(model, name, features.stand_in(name, shape[0], module))


def _weight_shape(module: Removable) -> list[int]:
    """``[O, K]``; an embedding of K numbers gives O features."""
    shape = [*module.weight.shape]
    return shape[::-1] if isinstance(module, nn.Embedding) else shape


def _is_sum(module: nn.Module | None, parts: Sequence[PackedLayer]) -> bool:
    """Whether the parts together can stand for a module of the model."""
    if not isinstance(module, Quantizable):
        return False
    shape = (parts[0].weight.rows, sum(part.weight.columns for part in parts))
    own = (module.weight.shape[0], module.weight[0].numel())
    return geometry_of(module) == parts[0].conv and own == shape


def _fits(module: nn.Module | None, layer: PackedLayer) -> bool:
    """Whether a packed layer can stand for a module of the model."""
    if not isinstance(module, Quantizable):
        return False
    shape = (layer.weight.rows, layer.weight.columns)
    own = (module.weight.shape[0], module.weight[0].numel())
    return geometry_of(module) == layer.conv and own == shape
