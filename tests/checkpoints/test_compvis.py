"""Original names of LDM and Stable Diffusion: every tensor arrives, under diffusers' name."""

import json
import math

import pytest
import torch
from compvis_names import to_compvis
from diffusers import DDIMScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from safetensors.torch import save_file

from mpq_export.checkpoints import compvis, load_checkpoint
from mpq_export.checkpoints.state import State
from mpq_export.errors import CheckpointError

PREFIX = "model.diffusion_model."


def conditional(**changes):
    """Stable Diffusion in small: spatial transformers at two of three levels."""
    torch.manual_seed(1)
    config = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
        "block_out_channels": (8, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2,
        "cross_attention_dim": 12,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return UNet2DConditionModel(**config | changes)


def unconditional():
    """LDM-4 in small: no attention at the first of three levels, several heads."""
    torch.manual_seed(2)
    return UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=2,
        block_out_channels=(32, 64, 96), attention_head_dim=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


MODELS = {
    "Stable Diffusion 1": conditional,
    "linear projections": lambda: conditional(use_linear_projection=True),
    "added conditions": lambda: conditional(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=20,
    ),
    "labels": lambda: conditional(num_class_embeds=5),
    "unconditional LDM": unconditional,
}
LABELS = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb",
}


def original(model):
    """A model's state under original names; conditions' embeddings included."""
    from compvis_names import ENDS

    extra = {**ENDS, **LABELS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compvis_names.ENDS", extra)
        return to_compvis(model)


def save(folder, model, state, name="m.safetensors"):
    """A single file with its config and scheduler."""
    path = folder / name
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    model.save_config(folder / "config")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    return path


def load(path, config="config/config.json"):
    return load_checkpoint(path, path.parent / config)


def assert_same(checkpoint, model):
    own, expected = checkpoint.model.state_dict(), model.state_dict()
    assert own.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(own[name], value), name


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_every_tensor_arrives(tmp_path, case, prefix):
    model = MODELS[case]()
    state = {prefix + name: value for name, value in original(model).items()}
    assert not state.keys() & model.state_dict().keys()
    checkpoint = load(save(tmp_path, model, state))
    assert_same(checkpoint, model)
    assert any("CompVis" in note for note in checkpoint.notes)


def whole_file(model):
    """What a file of Stable Diffusion holds beside the UNet."""
    return {
        **{PREFIX + name: value for name, value in original(model).items()},
        "betas": torch.ones(3),
        "first_stage_model.decoder.conv_in.weight": torch.ones(2),
        "first_stage_model.decoder.conv_in.bias": torch.ones(2),
        "cond_stage_model.transformer.weight": torch.ones(2),
        "cond_stage_model.transformer.bias": torch.ones(2),
    }


def test_what_lies_beside_the_unet_is_left_out_and_said(tmp_path):
    model = conditional()
    content = {"state_dict": whole_file(model), "global_step": 7}
    checkpoint = load(save(tmp_path, model, content, "m.ckpt"))
    assert_same(checkpoint, model)
    (note,) = [note for note in checkpoint.notes if "Left out" in note]
    assert "first_stage_model (2 tensors), cond_stage_model (2 tensors), 1 single tensor" in note


def with_average(state):
    """LitEma's copy: every weight of ``model`` doubled, names without dots, two counters."""
    average = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): 2 * value
        for name, value in state.items()
        if name.startswith("model.")
    }
    counters = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}
    return {**state, **average, **counters}


@pytest.mark.parametrize("make", [conditional, unconditional])
def test_averaged_weights_are_preferred_and_said(tmp_path, make):
    model = make()
    state = with_average(whole_file(model))
    checkpoint = load(save(tmp_path, model, {"state_dict": state}, "m.ckpt"))
    for value in model.state_dict().values():
        value *= 2
    assert_same(checkpoint, model)
    assert any("EMA, model_ema" in note for note in checkpoint.notes)


@pytest.mark.parametrize("change", ["one is missing", "one too many", "names that collide"])
def test_averaged_weights_that_do_not_match(tmp_path, change):
    model = conditional()
    state = with_average(whole_file(model))
    if change == "one is missing":
        del state["model_ema.diffusion_modelout2bias"]
    elif change == "one too many":
        state["model_ema.diffusion_modelout3bias"] = torch.ones(4)
    else:
        state[PREFIX + "out2.bias"] = torch.ones(4)
    with pytest.raises(CheckpointError, match="names lost the dots, and 1 of"):
        load(save(tmp_path, model, {"state_dict": state}, "m.ckpt"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop(PREFIX + "input_blocks.1.0.in_layers.2.weight"), "1 tensors are missing"),
        (lambda s: s.pop(PREFIX + "output_blocks.2.1.conv.bias"), "cannot be converted"),
        (lambda s: s.update({PREFIX + "extra.weight": torch.ones(2)}), "no place in a UNet"),
        (lambda s: s.update({PREFIX + "input_blocks.99.0.x": torch.ones(2)}), "no place in a UNet"),
    ],
)
def test_names_that_fit_no_unet(tmp_path, edit, message):
    model = conditional()
    state = {PREFIX + name: value for name, value in original(model).items()}
    edit(state)
    with pytest.raises(CheckpointError, match=message):
        load(save(tmp_path, model, state))


@pytest.mark.parametrize("layers", [1, 0, [2, 2, 2], "x"])
def test_a_config_of_another_depth(tmp_path, layers):
    model = conditional()
    path = save(tmp_path, model, original(model))
    config = tmp_path / "config/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layers_per_block": layers}))
    with pytest.raises(CheckpointError):
        load(path)


def test_fused_attention_computes_the_same():
    """The rows of LDM's one convolution, against its own arithmetic (QKVAttentionLegacy)."""
    channels, head, tokens = 12, 4, 5
    torch.manual_seed(3)
    state = {
        "attentions.0.norm.weight": torch.randn(channels),
        "attentions.0.norm.bias": torch.randn(channels),
        "attentions.0.qkv.weight": torch.randn(3 * channels, channels, 1),
        "attentions.0.qkv.bias": torch.randn(3 * channels),
        "attentions.0.proj_out.weight": torch.randn(channels, channels, 1),
        "attentions.0.proj_out.bias": torch.randn(channels),
    }
    x = torch.randn(2, channels, tokens)
    part = {name.removeprefix("attentions.0."): value for name, value in state.items()}
    normed = torch.nn.functional.group_norm(x, 2, part["norm.weight"], part["norm.bias"])
    qkv = torch.nn.functional.conv1d(normed, part["qkv.weight"], part["qkv.bias"])
    heads = channels // head
    q, k, v = qkv.reshape(2 * heads, 3 * head, tokens).split(head, dim=1)
    weight = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(head), dim=-1)
    mixed = torch.einsum("bts,bcs->bct", weight, v).reshape(2, channels, tokens)
    expected = x + torch.nn.functional.conv1d(mixed, part["proj_out.weight"], part["proj_out.bias"])

    module = Attention(
        channels, heads=heads, dim_head=head, bias=True, norm_num_groups=2, residual_connection=True
    )
    converted = compvis._split_attention(state, {"attention_head_dim": head})
    module.load_state_dict(
        {name.removeprefix("attentions.0."): value for name, value in converted.items()}
    )
    actual = module(x.transpose(1, 2).reshape(2, tokens, channels).transpose(1, 2)[..., None])
    torch.testing.assert_close(actual[..., 0], expected, rtol=1e-4, atol=1e-5)


# --- original configs -------------------------------------------------------------------------

STABLE_DIFFUSION_YAML = """
model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    image_size: 8
    channels: 4
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 32 # unused
        in_channels: 4
        out_channels: 4
        model_channels: 32
        attention_resolutions: [ 2, 1 ]
        num_res_blocks: 2
        channel_mult: [ 1, 2, 2 ]
        num_heads: 2
        use_spatial_transformer: True
        transformer_depth: 1
        context_dim: 12
        use_checkpoint: True
        legacy: False
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig:
          ch_mult: [ 1, 2, 4, 4 ]
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
"""
LDM_YAML = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    image_size: 8
    unet_config:
      params:
        image_size: 8
        in_channels: 3
        out_channels: 3
        model_channels: 32
        attention_resolutions: [ 4, 2 ]
        num_res_blocks: 2
        channel_mult: [ 1, 2, 3 ]
        num_head_channels: 16
"""


XL_YAML = """
model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    scale_factor: 0.13025
    network_config:
      params:
        adm_in_channels: 1552
        num_classes: sequential
        in_channels: 4
        out_channels: 4
        model_channels: 32
        attention_resolutions: [4, 2]
        num_res_blocks: 1
        channel_mult: [1, 2, 2]
        num_head_channels: 16
        use_spatial_transformer: True
        use_linear_in_transformer: True
        transformer_depth: [1, 2, 3]
        context_dim: 1280
    first_stage_config:
      params:
        ddconfig:
          ch_mult: [1, 2, 4, 4]
"""


def stable_diffusion_xl():
    """SDXL in small: added conditions, linear projections, several transformers per block."""
    return conditional(
        sample_size=128, block_out_channels=(32, 64, 64), norm_num_groups=32, layers_per_block=1,
        attention_head_dim=(2, 4, 4), cross_attention_dim=1280, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3), addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=1552,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (stable_diffusion_xl, XL_YAML),
        (
            lambda: conditional(block_out_channels=(32, 64, 64), norm_num_groups=32),
            STABLE_DIFFUSION_YAML,
        ),
        (unconditional, LDM_YAML),
    ],
)
def test_the_original_yaml_gives_the_same_model(tmp_path, make, text):
    model = make()
    path = save(tmp_path, model, {PREFIX + k: v for k, v in original(model).items()})
    (tmp_path / "model.yaml").write_text(text)
    checkpoint = load(path, "model.yaml")
    assert_same(checkpoint, model)
    ours, theirs = checkpoint.model.config, model.config
    assert {k: v for k, v in ours.items() if k[0] != "_"} == {
        k: v if not isinstance(v, tuple) else list(v) for k, v in theirs.items() if k[0] != "_"
    }


def test_yaml_needs_original_names(tmp_path):
    model = unconditional()
    path = save(tmp_path, model, model.state_dict())
    (tmp_path / "model.yaml").write_text(LDM_YAML)
    with pytest.raises(CheckpointError, match="original naming"):
        load(path, "model.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_head_channels: 16", "num_heads: 4", "num_heads 4 of the YAML is not supported"),
        ("num_res_blocks: 2", "resblock_updown: true", "resblock_updown of the YAML"),
        ("num_res_blocks: 2", "", "KeyError: 'num_res_blocks'"),
        ("[ 1, 2, 3 ]", "many", "does not describe a UNet"),
        ("[ 1, 2, 3 ]", "[ 1, 2 ]", "fit the config|converted|no place"),
        ("model:", "model: &a", "anchors and aliases"),
        ("[ 1, 2, 3 ]", "[ 1, x ]", "are not whole numbers"),
        ("model_channels: 32", "model_channels: -32", "are not whole numbers"),
        ("    unet_config:", "    other:", "KeyError"),
    ],
)
def test_a_yaml_that_does_not_fit(tmp_path, old, new, message):
    model = unconditional()
    path = save(tmp_path, model, original(model))
    assert old in LDM_YAML
    (tmp_path / "model.yml").write_text(LDM_YAML.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=message):
        load(path, "model.yml")


def test_names_without_end_are_not_looked_through():
    names = ["input_blocks.0.0.weight", *(f"input_blocks.{i}.0.x" for i in range(100_000))]
    with pytest.raises(CheckpointError, match="100001 tensors"):
        compvis.converted(State(dict.fromkeys(names, torch.ones(1))), {}, "m.pt")


def test_heads_of_one_width_can_be_counted():
    unet = {"num_heads": 4}
    assert compvis._head_channels(unet, [32, 64], [False, True]) == 16
    assert compvis.is_compvis({"input_blocks.0.0.weight": 0})
    assert not compvis.is_compvis(State({}).tensors)
