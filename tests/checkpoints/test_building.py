"""A config and tensors become a model, or a clear error: never memory by the config alone."""

import json

import pytest
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel
from safetensors.torch import save_file

from mpq_export.checkpoints import load_checkpoint
from mpq_export.checkpoints.building import build_model
from mpq_export.errors import CheckpointError


def dit():
    torch.manual_seed(4)
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        sample_size=8, patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip


def pixart():
    torch.manual_seed(5)
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        sample_size=8, patch_size=2, cross_attention_dim=16, caption_channels=12,
    )  # fmt: skip


MODELS = {"ada_norm_zero": dit, "ada_norm_single": pixart}


def saved(folder, model, **change):
    """A component folder with its scheduler; entries of its config changed."""
    from diffusers import DDIMScheduler

    model.save_pretrained(folder)
    DDIMScheduler().save_pretrained(folder / "scheduler")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


@pytest.mark.parametrize("norm", MODELS)
@pytest.mark.parametrize("legacy", [False, True])
def test_transformers_also_under_their_old_class_name(tmp_path, norm, legacy):
    model = MODELS[norm]()
    change = {"_class_name": "Transformer2DModel", "norm_type": norm} if legacy else {}
    checkpoint = load_checkpoint(saved(tmp_path, model, **change))
    assert type(checkpoint.model) is type(model)
    assert checkpoint.model_config["_class_name"] == type(model).__name__
    own = checkpoint.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())
    for name, buffer in model.named_buffers():
        assert torch.equal(checkpoint.model.get_buffer(name), buffer), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_size": 10**9}, "is not a size"),
        ({"sample_size": 4096, "patch_size": 1}, "table of positions would have 268435456"),
        ({"sample_size": 4096, "num_attention_heads": 10**6}, "table of positions"),
        ({"patch_size": 0.001}, "whole numbers"),
        ({"patch_size": -2}, "whole numbers"),
        ({"num_layers": 10**9}, "a larger model than 44 tensors"),
        ({"num_layers": 3}, "tensors are missing"),
        ({"num_embeds_ada_norm": 10**15}, "builds no model|do not fit|wrong shape"),
    ],
)
def test_a_config_alone_allocates_nothing(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved(tmp_path, dit(), **change))


def with_weight(folder, value):
    model = dit()
    saved(folder, model)
    state = {**model.state_dict(), "proj_out_1.bias": value}
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_float32(tmp_path, dtype):
    value = torch.randn(32).to(dtype)
    weight = load_checkpoint(with_weight(tmp_path, value)).model.proj_out_1.bias
    assert weight.dtype == torch.float32
    assert torch.equal(weight, value.float())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((32,), 1e300, dtype=torch.float64), "not finite"),
        (torch.full((32,), float("nan"), dtype=torch.bfloat16), "not finite"),
        (torch.ones(32, dtype=torch.int8), "proj_out_1.bias is int8"),
        (torch.ones(32, dtype=torch.bool), "is bool"),
        (torch.ones(33), "wrong shape"),
    ],
)
def test_weights_that_are_not_usable(tmp_path, value, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(with_weight(tmp_path, value))


def test_weights_are_taken_without_a_copy(tmp_path):
    model = dit()
    tensors = model.state_dict()
    built = build_model({"_class_name": "DiTTransformer2DModel", **model.config}, tensors, tmp_path)
    own = built.state_dict()
    assert all(own[name].data_ptr() == value.data_ptr() for name, value in tensors.items())
