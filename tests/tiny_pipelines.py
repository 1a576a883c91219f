"""Whole pipelines of small random models, in the shape of published ones."""

from __future__ import annotations

import json
from pathlib import Path

WIDTH, TOKENS = 16, 77


def save_stable_diffusion(folder: Path) -> Path:
    """Stable Diffusion with every part: text encoder, tokenizer, VAE, UNet, PNDM scheduler."""
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(folder.parent / "vocabulary"),
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            skip_prk_steps=True, steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_dit(folder: Path) -> Path:
    """DiT with its VAE."""
    import torch
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, num_layers=2, patch_size=2,
        num_attention_heads=2, attention_head_dim=12, num_embeds_ada_norm=1000,
    )  # fmt: skip
    DiTPipeline(transformer=model, vae=vae(), scheduler=DDIMScheduler()).save_pretrained(folder)
    return folder


def vae():
    """A VAE that halves both sides."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8), in_channels=3, out_channels=3, latent_channels=4,
        norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def text_encoder():
    """A CLIP text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=300, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=TOKENS, bos_token_id=257,
            eos_token_id=258, pad_token_id=258,
        )
    )  # fmt: skip


def tokenizer(folder: Path):
    """A CLIP tokenizer that knows letters."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(97, 123)]
    words = letters + [f"{letter}</w>" for letter in letters]
    vocabulary = {word: index for index, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": 257, "<|endoftext|>": 258}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)
