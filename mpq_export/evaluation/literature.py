"""The denoisers that papers on low-bit diffusion quantise, as diffusers configs; weights are none.

Sources: the configs of CompVis/latent-diffusion (``lsun_bedrooms-ldm-vq-4``, ``cin256-v2``,
``lsun_churches-ldm-kl-8``), the UNet of CompVis/stable-diffusion-v1-4, facebook/DiT-XL-2-256.
Published sizes: arXiv 2112.10752 (latent diffusion), arXiv 2212.09748 (DiT), and the model card of
Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class LiteratureModel:
    """A published denoiser.

    Attributes:
        name: as papers call it.
        config: diffusers' component config.
        published: parameters as published, in millions.
        remark: how the diffusers model differs from the published one; may be empty.
    """

    name: str
    config: Mapping[str, Any]
    published: int
    remark: str = ""

    def build(self) -> nn.Module:
        """The model without storage: parameters lie on the meta device."""
        import diffusers
        from accelerate import init_empty_weights

        with init_empty_weights(include_buffers=False):
            model: nn.Module = getattr(diffusers, self.config["_class_name"]).from_config(
                dict(self.config)
            )
        return model.eval().requires_grad_(False)


MODELS = (
    LiteratureModel(
        "LDM-4 LSUN-Bedroom 256",
        {
            "_class_name": "UNet2DModel",
            "sample_size": 64,
            "in_channels": 3,
            "out_channels": 3,
            "layers_per_block": 2,
            "block_out_channels": [224, 448, 672, 896],
            "down_block_types": ["DownBlock2D"] + 3 * ["AttnDownBlock2D"],
            "up_block_types": 3 * ["AttnUpBlock2D"] + ["UpBlock2D"],
            "attention_head_dim": 32,
            "downsample_padding": 1,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
        },
        published=274,
    ),
    LiteratureModel(
        "LDM-8 LSUN-Church 256",
        {
            "_class_name": "UNet2DModel",
            "sample_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 2,
            "block_out_channels": [192, 384, 384, 768, 768],
            "down_block_types": 4 * ["AttnDownBlock2D"] + ["DownBlock2D"],
            "up_block_types": ["ResnetUpsampleBlock2D"] + 4 * ["AttnUpBlock2D"],
            "attention_head_dim": 48,
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
            "downsample_padding": 1,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
        },
        published=295,
        remark="diffusers has heads of one width, the original 8 heads everywhere; same weights",
    ),
    LiteratureModel(
        "LDM-4 ImageNet 256",
        {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 64,
            "in_channels": 3,
            "out_channels": 3,
            "layers_per_block": 2,
            "block_out_channels": [192, 384, 576, 960],
            "down_block_types": ["DownBlock2D"] + 3 * ["CrossAttnDownBlock2D"],
            "up_block_types": 3 * ["CrossAttnUpBlock2D"] + ["UpBlock2D"],
            "attention_head_dim": 1,
            "cross_attention_dim": 512,
        },
        published=400,
        remark="the class embedder (1001 x 512) is no part of the denoiser and is not counted here",
    ),
    LiteratureModel(
        "Stable Diffusion 1.x UNet",
        {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 2,
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": 3 * ["CrossAttnDownBlock2D"] + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + 3 * ["CrossAttnUpBlock2D"],
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
        },
        published=860,
    ),
    LiteratureModel(
        "DiT-XL/2 256",
        {
            "_class_name": "DiTTransformer2DModel",
            "sample_size": 32,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 28,
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "patch_size": 2,
            "num_embeds_ada_norm": 1000,
        },
        published=675,
        remark=(
            "diffusers keeps the timestep and class embeddings in each of the 28 blocks, the "
            "original once; the class tables are nearly all that stays in floating point"
        ),
    ),
)
