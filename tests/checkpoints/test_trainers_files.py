"""What training scripts save: containers, averaged weights, wrappers, old and fused attention."""

import argparse
import collections
import pathlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import CheckpointError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def state(pipeline_folder):
    return load_file(pipeline_folder / "unet" / WEIGHTS)


@pytest.fixture
def load(pipeline_folder, tmp_path):
    """Save a content as a file and load it with the tiny model's config."""

    def load_content(content, name="m.pt"):
        save = save_file if name.endswith(".safetensors") else torch.save
        save(content, tmp_path / name)
        config, scheduler = pipeline_folder / "unet/config.json", pipeline_folder / "scheduler"
        return load_checkpoint(tmp_path / name, config, scheduler)

    return load_content


def half(state):
    return {name: value / 2 for name, value in state.items()}


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def holds(checkpoint, state):
    own = checkpoint.model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[n], state[n]) for n in state)


TRAINED_ONLY = {
    "model": lambda s: {"model": s, "step": 3},
    "module": lambda s: {"module": s, "dp_world_size": 2},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer": {"state": {}}},
    "nested": lambda s: {"model": {"state_dict": s, "epoch": 1}},
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "callbacks": {}, "loops": []},
    "in a lightning module": lambda s: prefixed(s, "net.module."),
    "arguments": lambda s: {"model": s, "args": argparse.Namespace(lr=1e-4, out=pathlib.Path("x"))},
    "numpy scalars": lambda s: {"state_dict": s, "loss": np.float32(0.5), "n": np.int64(3)},
    "a numpy scalar of its own": lambda s: {"state_dict": s, "best": np.float64(0.25)},
    "an ordered dict": lambda s: {"state_dict": collections.OrderedDict(s), "epoch": 1},
}


@pytest.mark.parametrize("case", TRAINED_ONLY)
def test_trained_weights(load, state, case):
    checkpoint = load(TRAINED_ONLY[case](state))
    assert holds(checkpoint, state)
    assert checkpoint.notes == ()


WITH_AVERAGE = {
    "DiT": lambda s: {
        "model": half(s), "ema": s, "opt": {"state": {}}, "args": argparse.Namespace(n=1),
    },
    "k-diffusion": lambda s: {"model": half(s), "model_ema": s},
    "a wrapped average": lambda s: {"model": half(s), "ema": prefixed(s, "module.")},
    "lucidrains": lambda s: {
        "model": half(s),
        "ema": {
            **prefixed(half(s), "online_model."), **prefixed(s, "ema_model."),
            "initted": torch.tensor(True), "step": torch.tensor(4),
        },
    },
    "prefix beside plain names": lambda s: {**half(s), **prefixed(s, "ema.")},
    "prefix beside a prefix": lambda s: {
        **prefixed(half(s), "model."), **prefixed(s, "ema_model."),
    },
    "dotted names behind model_ema": lambda s: {
        **prefixed(half(s), "model."), **prefixed(s, "model_ema."),
    },
    "under state_dict": lambda s: {"state_dict": {**half(s), **prefixed(s, "ema.")}},
}  # fmt: skip


@pytest.mark.parametrize("case", WITH_AVERAGE)
def test_averaged_weights_are_preferred_and_it_is_said(load, state, case):
    checkpoint = load(WITH_AVERAGE[case](state))
    assert holds(checkpoint, state)
    (note,) = checkpoint.notes
    assert "averaged weights (EMA" in note
    assert "not the trained ones" in note


def test_averaged_weights_alone(load, state):
    for content in ({"ema": state, "step": 1}, prefixed(state, "ema_model.")):
        checkpoint = load(content)
        assert holds(checkpoint, state)
        assert len(checkpoint.notes) == 1
        assert "trained" not in checkpoint.notes[0]


def test_averaged_weights_in_safetensors(load, state):
    checkpoint = load({**half(state), **prefixed(state, "ema.")}, "m.safetensors")
    assert holds(checkpoint, state)
    assert checkpoint.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda s: {"ema": {"decay": 0.9, "shadow_params": list(s.values())}}, "have no names"),
        (lambda s: {"shadow_params": list(s.values()), "decay": 0.9}, "have no names"),
        (lambda s: {"ema": s, "ema_model": half(s)}, "several models.*In ema, ema_model"),
        (lambda s: {"unet": s, "model": s}, "several models"),
        (lambda s: prefixed(s, "model_ema."), "do not fit|EMA") ,
        (lambda s: {"optimizer": s}, "no state dict"),
        (lambda s: {"model": {"model": {"model": {"model": {"model": s, "a": 1}}}}}, "no state"),
        (lambda s: {"model": {**s, "lr": 0.1}}, "no state dict"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(load, state, content, message):
    content = content(state)
    if isinstance(content, dict) and all(name.startswith("model_ema.") for name in content):
        content = {"model_ema." + n.removeprefix("model_ema.").replace(".", ""): v
                   for n, v in content.items()}  # fmt: skip
        message = "names lost the dots"
    with pytest.raises(CheckpointError, match=message):
        load(content)


def test_a_denoiser_beside_other_models(load, state):
    others = {"vae.a": torch.ones(1), "vae.b": torch.ones(1), "text_encoder.c": torch.ones(1)}
    checkpoint = load({**prefixed(state, "unet."), **others}, "m.safetensors")
    assert holds(checkpoint, state)
    assert checkpoint.notes == ("Left out of the file: vae (2 tensors), 1 single tensor",)


# --- attention --------------------------------------------------------------------------------

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def with_old_names(state):
    result = {}
    for name, value in state.items():
        for new, old in OLD.items():
            name = name.replace(f".{new}.", f".{old}.")
        result[name] = value
    assert result.keys() != state.keys()
    return result


def test_old_attention_names(load, state):
    assert holds(load(with_old_names(state)), state)


def test_old_and_new_attention_names_together(load, state):
    with pytest.raises(CheckpointError, match="old and new names"):
        load({**state, **with_old_names(state)})


def fused(state, keep):
    result = dict(state)
    for name in state:
        if ".to_q." in name:
            parts = [name.replace("to_q", to) for to in ("to_q", "to_k", "to_v")]
            result[name.replace("to_q", "to_qkv")] = torch.cat([state[p] for p in parts])
            if not keep:
                for part in parts:
                    del result[part]
    return result


@pytest.mark.parametrize("keep", [True, False])
def test_fused_projections(load, state, keep):
    content = fused(state, keep)
    assert content.keys() != state.keys()
    assert holds(load(content), state)


def test_fused_projections_as_diffusers_makes_them(pipeline_folder, load, state):
    from diffusers import UNet2DModel
    from diffusers.models.attention_processor import Attention

    model = UNet2DModel.from_pretrained(pipeline_folder / "unet")
    for module in model.modules():
        if isinstance(module, Attention):
            module.fuse_projections()
    assert len(model.state_dict()) > len(state)
    assert holds(load(model.state_dict()), state)


def test_fused_keys_and_values(load, state):
    content = dict(state)
    for name in state:
        if ".to_k." in name:
            value = name.replace("to_k", "to_v")
            content[name.replace("to_k", "to_kv")] = torch.cat(
                [content.pop(name), content.pop(value)]
            )
    assert holds(load(content), state)


def test_fused_projections_that_differ(load, state):
    content = fused(state, keep=True)
    name = next(name for name in content if ".to_qkv.weight" in name)
    content[name] = content[name] + 1
    with pytest.raises(CheckpointError, match="differs from the split one"):
        load(content)


def test_fused_projections_of_another_size(load, state):
    content = fused(state, keep=False)
    name = next(name for name in content if ".to_qkv.weight" in name)
    content[name] = content[name][:-1]
    with pytest.raises(CheckpointError, match="do not fit"):
        load(content)
