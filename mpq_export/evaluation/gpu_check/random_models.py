"""Models that are timed: diffusers' classes, their inputs, and bundles of them.

Weights are random, of diffusers' own initialisation, and packed by rounding them; time does not
depend on either. Needs diffusers and what reads a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...architectures import architecture_of
from ...bundle import Bundle
from ...bundle_config import LayerConfig, QuantizationConfig
from ...core.integer_reference import PackedLayer
from ...core.layers import geometry_of, weight_matrix
from ...methods import recipe_of
from ...methods.plan import LayerPlan, plan_layers
from ...precision import BitSpec
from ..cpu_benchmark.models import MODELS
from ..literature import MODELS as LITERATURE
from .place import Place
from .rounding import mixed_planes, rounded_layer

BITS = "w3a8"
TIMESTEP = 500
_THREADS = 8


@dataclass(frozen=True)
class Network:
    """A model class of a config, and the images of a step.

    ``check_layers``: its layers are compared with the reference, too.
    """

    name: str
    config: Mapping[str, Any]
    batch: int
    check_layers: bool = False


def _literature(name: str) -> Mapping[str, Any]:
    return next(model.config for model in LITERATURE if model.name == name)


def _small_unet() -> Mapping[str, Any]:
    config = MODELS["unet26m"].config
    assert config is not None
    return config


NETWORKS = (
    Network("UNet of 25.8 M, 32x32", _small_unet(), 1, check_layers=True),
    Network("Stable Diffusion 1.x UNet, 64x64", _literature("Stable Diffusion 1.x UNet"), 2),
    Network("DiT-XL/2, 32x32", _literature("DiT-XL/2 256"), 2),
)
EMULATED_NETWORKS = (
    Network(
        "tiny UNet",
        {
            "_class_name": "UNet2DModel",
            "sample_size": 8,
            "in_channels": 2,
            "out_channels": 2,
            "layers_per_block": 1,
            "block_out_channels": [8, 16],
            "norm_num_groups": 4,
            "attention_head_dim": 8,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        },
        1,
        check_layers=True,
    ),
)


def random_model(config: Mapping[str, Any]) -> nn.Module:
    """A model of a config, with diffusers' own random weights."""
    import diffusers

    cls = getattr(diffusers, config["_class_name"])
    model: nn.Module = cls.from_config(dict(config))
    return model.eval().requires_grad_(False)


def drawn_inputs(network: Network, place: Place) -> dict[str, Any]:
    """Arguments of a denoiser, on the device."""
    architecture, rng = architecture_of(network.config), np.random.default_rng(0)
    shape = (network.batch, *architecture.sample_shape(network.config))
    arrays = {
        "sample": rng.standard_normal(shape, np.float32),
        **{
            spec.name: spec.draw(network.batch, rng)
            for spec in architecture.conditions(network.config)
        },
    }
    tensors = {name: torch.from_numpy(array).to(place.gpu.device) for name, array in arrays.items()}
    return {**tensors, "timestep": float(TIMESTEP)}


def rounded_bundle(model: nn.Module, config: Mapping[str, Any]) -> Bundle:
    """The model as a bundle that lies nowhere."""
    plan = plan_layers(
        model, architecture_of(config), BitSpec.parse(BITS), recipe_of("rtn").trained_for(0)
    )
    with ThreadPoolExecutor(_THREADS) as pool:
        packed = pool.map(lambda name: _packed(model, plan, name), plan.layers)
        layers = dict(zip(plan.layers, packed, strict=True))
    own = tuple(f"{name}." for name in layers)
    return Bundle(
        path=Path("random"),
        model_config=dict(config),
        scheduler_config={"_class_name": "DDIMScheduler"},
        quantization=QuantizationConfig(
            bits=BITS,
            method="rtn",
            recipe={},
            source="random weights",
            full_precision_parameters=sum(value.numel() for value in model.parameters()),
            layers={name: LayerConfig.of(layer) for name, layer in layers.items()},
            eight_bit=dict(plan.eight_bit),
            kept=dict(plan.kept),
        ),
        layers=layers,
        parameters={
            name: value.numpy()
            for name, value in model.named_parameters()
            if not name.startswith(own)
        },
        timesteps=np.array([TIMESTEP], np.int32),
        output_bias=np.zeros(1, np.float32),
    )


def _packed(model: nn.Module, plan: LayerPlan, name: str) -> PackedLayer:
    module, bits = model.get_submodule(name), plan.layers[name].bits
    assert isinstance(module, nn.Linear | nn.Conv2d)
    weights = np.ascontiguousarray(weight_matrix(module).numpy())
    rows, conv = len(weights), geometry_of(module)
    # Eight bits are uniform, and so are groups' rows.
    alike = bits.weight == 8 or (conv is not None and conv.group > 1)
    planes = np.full(rows, bits.weight) if alike else mixed_planes(rows, bits.weight)
    bias = None if module.bias is None else module.bias.detach().numpy().copy()
    return rounded_layer(weights, planes, bits.activation, conv, bias)
