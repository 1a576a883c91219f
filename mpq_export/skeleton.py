"""The diffusers model of a bundle, with the caller's module in every quantised place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .bundle import Bundle
from .core.integer_reference import PackedLayer
from .core.layers import Quantizable, geometry_of, replace_module
from .empty_model import build_empty_model
from .errors import BundleError


def build_skeleton(
    bundle: Bundle, make_layer: Callable[[str, PackedLayer], nn.Module]
) -> nn.Module:
    """Build the model from its config, put ``make_layer(name, layer)`` in place, load the rest.

    Weights are never initialised: the parameters of quantised layers do not exist, all others are
    taken from the bundle.
    """
    packed = [(layer.weight.rows, layer.weight.columns) for layer in bundle.layers.values()]
    model = build_empty_model(
        bundle.model_config,
        len(bundle.parameters) + 2 * len(packed),
        sum(value.size for value in bundle.parameters.values())
        + sum(rows * (columns + 1) for rows, columns in packed),
        BundleError("The bundle's config builds no model", where=bundle.path),
    )
    modules = dict(model.named_modules())
    for name, layer in bundle.layers.items():
        if not _fits(modules.get(name), layer):
            raise BundleError(f"The model has no such layer as {name}", where=bundle.path)
        replace_module(model, name, make_layer(name, layer))
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


def _fits(module: nn.Module | None, layer: PackedLayer) -> bool:
    """Whether a packed layer can stand for a module of the model."""
    if not isinstance(module, Quantizable):
        return False
    shape = (layer.weight.rows, layer.weight.columns)
    own = (module.weight.shape[0], module.weight[0].numel())
    return geometry_of(module) == layer.conv and own == shape
