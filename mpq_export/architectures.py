"""What the package knows of each diffusers model class: its inputs and its special layers.

Works on config dictionaries alone, so that boards without torch can read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .conditions import ClassLabels, Condition, Embedding, Typical
from .errors import CheckpointError

Config = Mapping[str, Any]

MAX_SIDE, MAX_CHANNELS = 4096, 4096
"""Largest height, width and channels of a sample: a config alone cannot allocate more."""
MAX_WIDTH = 1 << 16
"""Largest width of an embedding and largest number of classes."""

_ADDED = "added_cond_kwargs"
_LEGACY_NORMS = {
    "ada_norm_zero": "DiTTransformer2DModel",
    "ada_norm_single": "PixArtTransformer2DModel",
}
_CLIP_TOKENS, _PIXART_TOKENS = 77, 120
_SDXL_TIME_IDS = 6
_VAE_FACTOR = 8


@dataclass(frozen=True)
class Architecture:
    """A model class that can be quantised.

    Attributes:
        class_name: diffusers' class.
        sample_argument: what its ``forward`` calls the sample.
        eight_bit: layer-name patterns kept at W8A8, with the reason; the first match counts.
        sample_shape: (channels, height, width) of one sample, from the config.
        conditions: further inputs, from the config; raises CheckpointError on unsupported ones.
        feature_module: the module whose input is the last feature map before the final norm and
            output, from the config.
    """

    class_name: str
    sample_argument: str
    eight_bit: Mapping[str, str]
    sample_shape: Callable[[Config], tuple[int, int, int]]
    conditions: Callable[[Config], tuple[Condition, ...]]
    feature_module: Callable[[Config], str]

    def eight_bit_reason(self, layer: str) -> str | None:
        """Why a layer is kept at W8A8, or None if it takes the requested bits."""
        return next((why for pat, why in self.eight_bit.items() if fnmatchcase(layer, pat)), None)


def architecture_of(config: Config) -> Architecture:
    """The architecture a component config names; raises :class:`CheckpointError` if unknown."""
    name = config.get("_class_name")
    try:
        return ARCHITECTURES[str(name)]
    except KeyError:
        raise _refused(
            f"Models of class '{name}' are not supported",
            f"Supported classes: {', '.join(sorted(ARCHITECTURES))}",
        ) from None


def modern_config(config: Config) -> dict[str, Any]:
    """A config under today's class name.

    Hub checkpoints of DiT and PixArt still carry the class ``Transformer2DModel``, whose
    ``norm_type`` says which of them it is.
    """
    if config.get("_class_name") != "Transformer2DModel":
        return dict(config)
    try:
        return {**config, "_class_name": _LEGACY_NORMS[str(config.get("norm_type"))]}
    except KeyError:
        raise _refused(
            f"Transformer2DModel with norm_type '{config.get('norm_type')}' is no denoiser",
            f"DiT has {', PixArt '.join(_LEGACY_NORMS)}",
        ) from None


def model_arguments(
    config: Config, sample: Any, timestep: Any, conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments of the model's ``forward``, from conditions by their names.

    ``timestep`` is one value per image. Raises TypeError unless exactly the model's conditions are
    given.
    """
    architecture = architecture_of(config)
    specs = architecture.conditions(config)
    wanted = {spec.name for spec in specs}
    if wanted != conditions.keys():
        raise TypeError(f"the model takes {sorted(wanted)}, it was given {sorted(conditions)}")
    arguments: dict[str, Any] = {architecture.sample_argument: sample, "timestep": timestep}
    for spec in specs:
        holder = arguments if spec.inside is None else arguments.setdefault(spec.inside, {})
        holder[spec.name] = conditions[spec.name]
    return arguments


def predicted_channels(config: Config) -> int | None:
    """C of a model's predictions, those of variances included; None where the config does not say.
    Transformers that name none predict as many as a sample has."""
    channels = config.get("out_channels") or config.get("in_channels")
    return channels if type(channels) is int else None


def takes_text(config: Config) -> bool:
    """Whether the model is conditioned on an encoded text."""
    conditions = architecture_of(config).conditions(config)
    return any(condition.name == "encoder_hidden_states" for condition in conditions)


def _refused(what: str, why: str, fix: str = "") -> CheckpointError:
    return CheckpointError(what, where="config.json", why=why, fix=fix)


def _whole(config: Config, key: str, default: int | None, largest: int = MAX_WIDTH) -> int:
    value = config.get(key, default)
    if type(value) is not int or not 1 <= value <= largest:
        raise _refused(f"{key} {value!r} is not usable", f"It is a whole number, 1 to {largest}")
    return value


def _sample(default_channels: int) -> Callable[[Config], tuple[int, int, int]]:
    def shape(config: Config) -> tuple[int, int, int]:
        size = config.get("sample_size")
        if size is None:
            raise _refused(
                "The model has no sample_size",
                "Calibration draws noise of that size",
                "Add sample_size to config.json",
            )
        sides = list(size) if isinstance(size, list | tuple) else [size, size]
        if len(sides) != 2 or not all(type(s) is int and 1 <= s <= MAX_SIDE for s in sides):
            raise _refused(
                f"sample_size {size!r} is not a size",
                f"It is one or two whole numbers, 1 to {MAX_SIDE}",
            )
        channels = _whole(config, "in_channels", default_channels, MAX_CHANNELS)
        return channels, sides[0], sides[1]

    return shape


def _class_conditions(config: Config) -> tuple[Condition, ...]:
    """``class_labels`` of UNets: labels, noise levels, or a vector."""
    kind, name = config.get("class_embed_type"), "class_labels"
    if kind is None:
        classes = config.get("num_class_embeds")
        return (ClassLabels(name, _whole(config, "num_class_embeds", None)),) if classes else ()
    if kind == "timestep":
        return (ClassLabels(name, 1000),)
    if kind == "identity":
        return (Embedding(name, (_time_width(config),)),)
    if kind in ("projection", "simple_projection"):
        width = _whole(config, "projection_class_embeddings_input_dim", None)
        return (Embedding(name, (width,)),)
    raise _refused(
        f"class_embed_type '{kind}' is not supported",
        "Supported are labels (num_class_embeds), timestep, identity, projection and "
        "simple_projection",
    )


def _time_width(config: Config) -> int:
    if config.get("time_embedding_dim") is not None:
        return _whole(config, "time_embedding_dim", None)
    channels = config.get("block_out_channels") or [0]
    return 4 * _whole({"block_out_channels[0]": channels[0]}, "block_out_channels[0]", None)


def _require_numeric_timestep(config: Config) -> None:
    kind = config.get("time_embedding_type", "positional")
    if kind not in ("positional", "fourier"):
        raise _refused(
            f"time_embedding_type '{kind}' is not supported",
            "Exported models take the timestep as a number, not as the index of a table",
        )


def _unet2d_conditions(config: Config) -> tuple[Condition, ...]:
    _require_numeric_timestep(config)
    return _class_conditions(config)


def _unet2d_text_conditions(config: Config) -> tuple[Condition, ...]:
    """Text (or other) tokens, then what the config adds: guidance, labels, SDXL's sizes."""
    _require_numeric_timestep(config)
    conditions: list[Condition] = [
        Embedding("encoder_hidden_states", (_CLIP_TOKENS, _token_width(config)), free_length=True)
    ]
    if config.get("time_cond_proj_dim") is not None:
        conditions.append(Embedding("timestep_cond", (_whole(config, "time_cond_proj_dim", None),)))
    conditions += _class_conditions(config)
    added = config.get("addition_embed_type")
    if added == "text_time":
        _, height, width = _sample(4)(config)
        size = (float(height * _VAE_FACTOR), float(width * _VAE_FACTOR))
        pooled = _whole(config, "projection_class_embeddings_input_dim", None)
        pooled -= _SDXL_TIME_IDS * _whole(config, "addition_time_embed_dim", None)
        if pooled < 1:
            raise _refused(
                "projection_class_embeddings_input_dim leaves no room for a pooled text",
                f"It holds {_SDXL_TIME_IDS} time ids of addition_time_embed_dim, and the text",
            )
        conditions.append(Embedding("text_embeds", (pooled,), _ADDED))
        conditions.append(Typical("time_ids", (*size, 0.0, 0.0, *size), _ADDED))
    elif added not in (None, "text"):
        raise _refused(
            f"addition_embed_type '{added}' is not supported",
            "Supported are none, text (DeepFloyd IF) and text_time (Stable Diffusion XL)",
        )
    return tuple(conditions)


def _token_width(config: Config) -> int:
    kind = config.get("encoder_hid_dim_type")
    if kind not in (None, "text_proj"):
        raise _refused(
            f"encoder_hid_dim_type '{kind}' is not supported",
            "The model wants image embeddings; supported are plain and projected text",
        )
    if config.get("encoder_hid_dim") is not None:
        return _whole(config, "encoder_hid_dim", None)
    width = config.get("cross_attention_dim", 1280)
    widths = set(width) if isinstance(width, list | tuple) else {width}
    if len(widths) != 1:
        raise _refused(
            f"cross_attention_dim {width!r} is not supported",
            "All blocks read the same tokens, so their widths must be equal",
        )
    return _whole({"cross_attention_dim": widths.pop()}, "cross_attention_dim", None)


def _dit_conditions(config: Config) -> tuple[Condition, ...]:
    classes = _whole(config, "num_embeds_ada_norm", 1000)
    return (ClassLabels("class_labels", classes, null=classes),)


def _pixart_conditions(config: Config) -> tuple[Condition, ...]:
    width = config.get("caption_channels")
    key = "cross_attention_dim" if width is None else "caption_channels"
    conditions: list[Condition] = [
        Embedding(
            "encoder_hidden_states", (_PIXART_TOKENS, _whole(config, key, 1152)), free_length=True
        ),
        Typical("encoder_attention_mask", (1.0,) * _PIXART_TOKENS, free_length=True),
    ]
    _, height, width = _sample(4)(config)
    sized = config.get("use_additional_conditions")
    if sized or (sized is None and config.get("sample_size", 128) == 128):
        size = (float(height * _VAE_FACTOR), float(width * _VAE_FACTOR))
        conditions.append(Typical("resolution", size, _ADDED))
        conditions.append(Typical("aspect_ratio", (height / width,), _ADDED))
    return tuple(conditions)


def _unet_feature_module(config: Config) -> str:
    """UNets may be built without a last norm, but not without a last convolution."""
    return "conv_out" if config.get("norm_num_groups", 32) is None else "conv_norm_out"


def _transformer_feature_module(_config: Config) -> str:
    return "norm_out"


_UNET_EIGHT_BIT = {
    "conv_in": "first convolution",
    "conv_out": "last convolution",
    "time_embedding.*": "timestep embedding",
    "class_embedding.*": "class embedding",
    "add_embedding.*": "embedding of added conditions",
    "encoder_hid_proj*": "embedding of the text",
}
_TRANSFORMER_EIGHT_BIT = {
    "pos_embed.proj": "patch embedding",
    "proj_out": "output projection",
    "proj_out_2": "output projection",
    "*.timestep_embedder.*": "timestep embedding",
    "adaln_single.emb.*": "embedding of added conditions",
}

ARCHITECTURES = {
    entry.class_name: entry
    for entry in (
        Architecture(
            "UNet2DModel",
            "sample",
            _UNET_EIGHT_BIT,
            _sample(3),
            _unet2d_conditions,
            _unet_feature_module,
        ),
        Architecture(
            "UNet2DConditionModel",
            "sample",
            _UNET_EIGHT_BIT,
            _sample(4),
            _unet2d_text_conditions,
            _unet_feature_module,
        ),
        Architecture(
            "DiTTransformer2DModel",
            "hidden_states",
            _TRANSFORMER_EIGHT_BIT,
            _sample(4),
            _dit_conditions,
            _transformer_feature_module,
        ),
        Architecture(
            "PixArtTransformer2DModel",
            "hidden_states",
            _TRANSFORMER_EIGHT_BIT,
            _sample(4),
            _pixart_conditions,
            _transformer_feature_module,
        ),
    )
}
