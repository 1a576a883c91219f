"""The diffusers model of a bundle, with the caller's module in every quantised place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .architectures import architecture_of
from .bundle import Bundle
from .core.integer_reference import PackedLayer
from .core.layers import replace_module
from .errors import BundleError


def build_skeleton(
    bundle: Bundle, make_layer: Callable[[str, PackedLayer], nn.Module]
) -> nn.Module:
    """Build the model from its config, put ``make_layer(name, layer)`` in place, load the rest.

    Weights are never initialised: the parameters of quantised layers do not exist, all others are
    taken from the bundle.
    """
    import diffusers
    from accelerate import init_empty_weights

    architecture = architecture_of(bundle.model_config)
    with init_empty_weights(include_buffers=False):
        model = getattr(diffusers, architecture.class_name).from_config(dict(bundle.model_config))
    for name, layer in bundle.layers.items():
        try:
            replace_module(model, name, make_layer(name, layer))
        except AttributeError as error:
            raise BundleError(
                f"The model has no layer {name}", where=bundle.path, why=str(error)
            ) from error
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
