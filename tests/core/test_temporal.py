"""The temporal information block, in toy networks and in diffusers' models."""

import numpy as np
import pytest
import torch
from torch import nn

from mpq_export.architectures import architecture_of
from mpq_export.core.call_tape import record_calls
from mpq_export.core.planes import ContractError
from mpq_export.core.temporal import TIMESTEP, find_temporal_block, unread_layers
from mpq_export.prediction import predict


class Toy(nn.Module):
    """Two features, one after a label, and layers of the sample and of the label alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.deep = nn.Linear(1, 4), nn.Linear(4, 4)
        self.plain, self.mixed = nn.Linear(4, 3), nn.Linear(4, 3)
        self.label, self.body = nn.Embedding(5, 4), nn.Linear(3, 3)
        self.of_label = nn.Linear(4, 3)

    def forward(self, sample, timestep, label):
        h = self.deep(self.embed(timestep[:, None]).relu())
        named = self.label(label)
        out = self.body(sample + self.plain(h.relu())) * self.mixed(h + named)
        return out + self.of_label(named)


INPUTS = {
    "sample": torch.ones(2, 3),
    TIMESTEP: torch.tensor([7.0, 8.0]),
    "label": torch.tensor([1, 4]),
}


def forward(model, inputs):
    return model(**inputs)


def block_of(model, allowed=(), forward=forward, inputs=INPUTS):
    return find_temporal_block(record_calls(model, inputs, forward), allowed)


def run_layers(model):
    return lambda name, x: model.get_submodule(name)(x)


def test_features_of_the_timestep_alone_end_where_a_label_comes_in():
    block = block_of(Toy())
    assert block.features == ("deep", "plain")
    assert block.layers == ("embed", "deep", "plain")
    assert block.inputs == {TIMESTEP}


def test_an_allowed_label_belongs_to_the_block():
    block = block_of(Toy(), ["label"])
    assert block.features == ("plain", "mixed")
    assert block.layers == ("embed", "deep", "plain", "mixed")
    assert block.inputs == {TIMESTEP, "label"}


def test_layers_that_only_replaced_features_read_are_unread():
    tape = record_calls(Toy(), INPUTS, forward)
    assert unread_layers(tape, []) == []
    assert unread_layers(tape, ["plain"]) == ["plain"]
    assert unread_layers(tape, ["plain", "mixed"]) == ["embed", "deep", "plain", "mixed"]
    assert unread_layers(tape, ["deep", "plain"]) == ["embed", "deep", "plain"]
    everything = unread_layers(tape, ["plain", "mixed", "of_label"])
    assert set(everything) == {"embed", "deep", "plain", "mixed", "label", "of_label"}


def test_the_block_runs_alone_and_with_gradients():
    toy = Toy()
    block = block_of(toy, ["label"])
    features = block.run(toy, {**INPUTS, "sample": torch.full((2, 3), torch.nan)}, run_layers(toy))
    h = toy.deep(toy.embed(INPUTS[TIMESTEP][:, None]).relu())
    assert torch.equal(features["plain"], toy.plain(h.relu()))
    assert torch.equal(features["mixed"], toy.mixed(h + toy.label(INPUTS["label"])))
    features["plain"].sum().backward()
    assert toy.embed.weight.grad is not None
    assert toy.mixed.weight.grad is None


def test_what_is_written_through_a_view_counts():
    """The sample is written into one half of what the timestep made; the other half is a view of
    the same memory, so it is not trusted either."""

    def mixing(model, inputs):
        h = model.deep(model.embed(inputs[TIMESTEP][:, None]))
        first, _ = h.chunk(2, dim=1)
        first += inputs["sample"][:, :2]
        return model.plain(h) + inputs["sample"]

    assert block_of(Toy(), forward=mixing).features == ("deep",)


def test_a_timestep_that_meets_the_sample_at_once_gives_no_feature():
    def early(model, inputs):
        return model.body(inputs["sample"] * inputs[TIMESTEP][:, None])

    block = block_of(Toy(), forward=early)
    assert block.features == block.layers == block.calls == ()


def test_a_layer_that_gives_two_features_in_a_step_is_refused():
    def twice(model, inputs):
        h = model.deep(model.embed(inputs[TIMESTEP][:, None]))
        return inputs["sample"] + model.plain(h) + model.plain(2 * h)

    toy = Toy()
    block = block_of(toy, forward=twice)
    assert block.features == ("plain",)
    with pytest.raises(ContractError, match="plain gives different features"):
        block.run(toy, INPUTS, run_layers(toy))


UNET = {
    "sample_size": 8, "in_channels": 2, "out_channels": 2, "layers_per_block": 1,
    "block_out_channels": (8, 16), "norm_num_groups": 4,
}  # fmt: skip
TEXT_UNET = {
    **UNET, "attention_head_dim": 4, "cross_attention_dim": 12, "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
XL_UNET = {
    **TEXT_UNET, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 34,
}  # fmt: skip
PLAIN_UNET = {
    **UNET, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
}  # fmt: skip
DIT = {
    "sample_size": 8, "in_channels": 2, "num_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 4, "num_embeds_ada_norm": 6, "norm_num_groups": 2,
}  # fmt: skip
PIXART = {
    "sample_size": 8, "in_channels": 2, "out_channels": 4, "num_layers": 2,
    "num_attention_heads": 2, "attention_head_dim": 4, "cross_attention_dim": 8,
    "caption_channels": 10, "norm_num_groups": 2, "use_additional_conditions": False,
}  # fmt: skip

CASES = {
    "unet": ("UNet2DModel", PLAIN_UNET, (), "*.time_emb_proj", 8, 10),
    "unet, scale and shift": (
        "UNet2DModel",
        {**PLAIN_UNET, "resnet_time_scale_shift": "scale_shift"},
        (), "*.time_emb_proj", 8, 10,
    ),
    "unet, labels left out": (
        "UNet2DModel", {**PLAIN_UNET, "num_class_embeds": 5},
        (), "time_embedding.linear_2", 1, 2,
    ),
    "unet, labels": (
        "UNet2DModel", {**PLAIN_UNET, "num_class_embeds": 5},
        ("class_labels",), "*.time_emb_proj", 8, 11,
    ),
    "unet, fourier": (
        "UNet2DModel", {**PLAIN_UNET, "time_embedding_type": "fourier"},
        (), "*.time_emb_proj", 8, 10,
    ),
    "text unet": ("UNet2DConditionModel", TEXT_UNET, (), "*.time_emb_proj", 8, 10),
    "text unet, xl": ("UNet2DConditionModel", XL_UNET, (), "time_embedding.linear_2", 1, 2),
    "dit, labels left out": (
        "DiTTransformer2DModel", DIT, (), "*.timestep_embedder.linear_2", 2, 4
    ),
    "dit": ("DiTTransformer2DModel", DIT, ("class_labels",), "*", 3, 9),
    "pixart": ("PixArtTransformer2DModel", PIXART, (), "adaln_single.*", 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_block_of_every_architecture(case):
    """Its features equal what the whole model computes, for any sample, and what they replace is
    all that nothing else reads."""
    import fnmatch

    import diffusers

    class_name, config, allowed, pattern, count, unread = CASES[case]
    torch.manual_seed(0)
    model = getattr(diffusers, class_name)(**config).eval()
    config = {**model.config, "_class_name": class_name}
    architecture, rng = architecture_of(config), np.random.default_rng(0)
    names = [spec.name for spec in architecture.conditions(config)]
    inputs = {
        "sample": torch.randn(2, *architecture.sample_shape(config)),
        TIMESTEP: torch.tensor(300.0),
        **{s.name: torch.from_numpy(s.draw(2, rng)) for s in architecture.conditions(config)},
    }

    def call(model, given):
        conditions = {name: given[name] for name in names}
        return predict(model, config, given["sample"], given[TIMESTEP], conditions)

    tape = record_calls(model, inputs, call)
    block = find_temporal_block(tape, allowed)
    assert len(block.features) == count
    assert all(fnmatch.fnmatchcase(name, pattern) for name in block.features), block.features
    assert len(unread_layers(tape, block.features)) == unread
    assert set(block.layers) <= set(unread_layers(tape, block.features))
    seen = {}
    for name in block.features:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _input, output, name=name: seen.update({name: output})
        )
    with torch.no_grad():
        call(model, inputs)
        features = block.run(model, {**inputs, TIMESTEP: torch.tensor(300.0)}, run_layers(model))
    assert all(torch.equal(features[name], seen[name]) for name in block.features)
