"""The original naming of latent diffusion (LDM) and Stable Diffusion, and their YAML configs.

Names are converted by diffusers. What it has no function for is done here: unconditional LDM UNets,
whose attention is one convolution for q, k and v, and their configs. Sources: ``openaimodel.py`` of
CompVis/latent-diffusion; diffusers' ``convert_ldm_original_checkpoint_to_diffusers.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..yaml_files import read_yaml
from .state import State, Tensors, first_line

_FIRST_LAYER = "input_blocks.0.0.weight"
_PREFIX = "model.diffusion_model."
_ATTENTION = re.compile(
    r"(?P<layer>.*\battentions\.\d+)\.(?P<part>norm|qkv|proj_out)\.(?P<kind>\w+)"
)
_MAX_LEVELS, _MAX_TENSORS = 16, 10_000
_SDXL_LATENT_SIZE = 128
_PLAIN_ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}


def is_compvis(tensors: Mapping[str, Any]) -> bool:
    """Whether a denoiser's tensors have their original names."""
    return _FIRST_LAYER in tensors


def converted(state: State, config: Mapping[str, Any], where: Path) -> State:
    """A denoiser's tensors under diffusers' names.

    ``config`` is diffusers' config of the model; it says how many layers a block has, and for
    unconditional models how many channels an attention head has.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    if len(state.tensors) > _MAX_TENSORS:  # the conversion looks at every name once per block
        raise _not_a_unet(where, f"It has {len(state.tensors)} tensors")
    original = {_PREFIX + name: value for name, value in state.tensors.items()}
    per_block = config.get("layers_per_block", 2)
    if not isinstance(per_block, int) or per_block < 1:
        raise CheckpointError(
            "layers_per_block is not a number of layers", where=where, why=f"It is {per_block!r}"
        )
    try:
        tensors = convert_ldm_unet_checkpoint(original, {**config, "layers_per_block": per_block})
        if config.get("_class_name") == "UNet2DModel":
            tensors = _split_attention(tensors, config)
    except Exception as error:  # names that fit no UNet raise anything
        raise _not_a_unet(where, first_line(error)) from error
    lost = [name for name, value in tensors.items() if value is None]
    if lost:
        raise _not_a_unet(where, f"There is no tensor for {lost[0]}")
    converted_count = sum(value.numel() for value in tensors.values())
    if converted_count != sum(value.numel() for value in state.tensors.values()):
        raise _not_a_unet(where, "Some of its tensors have no place in a UNet of this config")
    return state.then(tensors, "The original names (CompVis) were converted to those of diffusers")


def _not_a_unet(where: Path, why: str) -> CheckpointError:
    return CheckpointError(
        "The original names cannot be converted",
        where=where,
        why=why,
        fix="Check that the config belongs to these weights",
    )


def _split_attention(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Attention of unconditional UNets: 1-d convolutions become linear layers, q, k and v apart.

    Rows of ``qkv`` are ordered (head, q k v, channel): ``QKVAttentionLegacy``, which LDM uses.
    """
    result: Tensors = {}
    for name, value in tensors.items():
        match = _ATTENTION.fullmatch(name)
        if match is None:
            result[name] = value
            continue
        layer, part, kind = match["layer"], match["part"], match["kind"]
        if value is not None and part != "norm" and kind == "weight":
            value = value.flatten(1)
        if part in _PLAIN_ATTENTION:
            result[f"{layer}.{_PLAIN_ATTENTION[part]}.{kind}"] = value
            continue
        channels = value.shape[0] // 3
        head = config.get("attention_head_dim", 8) or channels
        by_head = value.reshape(channels // head, 3, head, *value.shape[1:])
        for index, projection in enumerate(("to_q", "to_k", "to_v")):
            result[f"{layer}.{projection}.{kind}"] = by_head[:, index].flatten(0, 1)
    return result


def config_from_yaml(path: Path, state: State) -> dict[str, Any]:
    """diffusers' config of a model from its original YAML, as ``v1-inference.yaml``.

    ``state`` has the denoiser's tensors under their original names: diffusers tells from them which
    Stable Diffusion it is, and with it the size of its latents.
    """
    document = read_yaml(path, CheckpointError)
    try:
        model = document["model"]["params"]
        unet = (model.get("unet_config") or model["network_config"])["params"]
        if not isinstance(model, dict) or not isinstance(unet, dict):
            raise TypeError("params is not a mapping")
        _require_widths(unet["model_channels"], unet["channel_mult"])
        build = _conditional if unet.get("use_spatial_transformer") else _unconditional
        return build(document, model, unet, state)
    except CheckpointError:
        raise
    except Exception as error:  # what is missing or of another type raises anything
        raise CheckpointError(
            "The YAML does not describe a UNet of LDM or Stable Diffusion",
            where=path,
            why=f"{type(error).__name__}: {first_line(error)}",
            fix="Give diffusers' config.json of the model with --config",
        ) from error


def _require_widths(channels: Any, factors: Any) -> None:
    """A text times a number is a larger text: widths are numbers before they are multiplied."""
    numbers = [channels, *factors] if isinstance(factors, list) else []
    if not 2 <= len(numbers) <= 1 + _MAX_LEVELS or any(
        type(n) is not int or n < 1 for n in numbers
    ):
        raise ValueError("model_channels and channel_mult are not whole numbers")


def _conditional(
    document: dict[str, Any], model: dict[str, Any], unet: dict[str, Any], state: State
) -> dict[str, Any]:
    from diffusers.loaders.single_file_utils import (
        create_unet_diffusers_config_from_ldm,
        infer_diffusers_model_type,
    )

    original = {_PREFIX + name: value for name, value in state.tensors.items()}
    config = create_unet_diffusers_config_from_ldm(document, original)
    size = model.get("image_size")
    if config["addition_embed_type"] == "text_time":
        # diffusers knows SDXL by its text encoders, which are left out here.
        config["sample_size"] = _SDXL_LATENT_SIZE
    elif infer_diffusers_model_type(original) == "v1" and isinstance(size, int):
        # "v1" is also what diffusers says of all it does not know, as class-conditional LDM.
        config["sample_size"] = size
    return {"_class_name": "UNet2DConditionModel", **config}


def _unconditional(
    document: dict[str, Any], model: dict[str, Any], unet: dict[str, Any], state: State
) -> dict[str, Any]:
    """LDM's UNet without conditions: attention blocks at the listed resolutions."""
    for key in ("resblock_updown", "use_new_attention_order", "num_classes"):
        if unet.get(key):
            raise CheckpointError(f"{key} of the YAML is not supported", where="unet_config")
    widths = [unet["model_channels"] * factor for factor in unet["channel_mult"]]
    attends = [2**level in unet["attention_resolutions"] for level in range(len(widths))]
    return {
        "_class_name": "UNet2DModel",
        "sample_size": model.get("image_size", unet["image_size"]),
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": unet["num_res_blocks"],
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "attention_head_dim": _head_channels(unet, widths, attends),
        "resnet_time_scale_shift": "scale_shift" if unet.get("use_scale_shift_norm") else "default",
    }


def _head_channels(unet: dict[str, Any], widths: list[int], attends: list[bool]) -> int:
    """Channels per head, which diffusers' UNet2DModel has once for all levels."""
    given = unet.get("num_head_channels", -1)
    if given != -1:
        return int(given)
    heads = unet.get("num_heads", -1)
    # The middle block attends at the last level in any case.
    used = {width for width, attend in zip(widths, attends, strict=True) if attend} | {widths[-1]}
    if len(used) > 1 or heads < 1:
        raise CheckpointError(
            f"num_heads {heads} of the YAML is not supported",
            where="unet_config",
            why="diffusers' UNet2DModel has one width of heads, and here levels differ",
        )
    return int(widths[-1] // heads)
