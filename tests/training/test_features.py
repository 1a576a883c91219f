"""The last feature map of every architecture."""

import pytest
import torch
from diffusers import (
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)

from mpq_export.prediction import predict
from mpq_export.training.condition_rows import drawn_conditions
from mpq_export.training.features import captured_features

UNET = {
    "sample_size": (8, 4), "in_channels": 2, "out_channels": 2, "layers_per_block": 1,
    "block_out_channels": (8,), "norm_num_groups": 4, "attention_head_dim": 4,
}  # fmt: skip
TEXT = {
    "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",),
    "cross_attention_dim": 12,
}  # fmt: skip
TRANSFORMER = {
    "sample_size": 8, "in_channels": 2, "out_channels": 4, "num_layers": 1, "patch_size": 2,
    "num_attention_heads": 2, "attention_head_dim": 6,
}  # fmt: skip
PIXART = {"cross_attention_dim": 12, "caption_channels": 8}
MODELS = {
    "unet": lambda: UNet2DModel(
        **UNET, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    ),
    "text unet": lambda: UNet2DConditionModel(**UNET | TEXT),
    "dit": lambda: DiTTransformer2DModel(**TRANSFORMER, num_embeds_ada_norm=10),
    "pixart": lambda: PixArtTransformer2DModel(**TRANSFORMER | PIXART),
}


def run(model, config):
    """A forward on three images at three timesteps; returns its features and prediction."""
    torch.manual_seed(1)
    side = model.config.sample_size
    sample = torch.randn(3, 2, *(side if isinstance(side, tuple) else (side, side)))
    conditions = drawn_conditions(config, 3, 0)
    with captured_features(model, config) as features:
        prediction = predict(model, config, sample, torch.tensor([999, 500, 0]), conditions)
    return features.pixels, prediction


@pytest.mark.parametrize("name", MODELS)
def test_pixels_of_every_architecture_are_in_its_graph(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    config = {**model.config, "_class_name": type(model).__name__}
    pixels, _ = run(model, config)
    assert pixels.shape == ((3, 32, 8) if "unet" in name else (3, 16, 12))
    pixels.square().sum().backward()
    touched = [p for p in model.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert touched
    with torch.no_grad():
        assert not run(model, config)[0].requires_grad
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_pixels_are_what_the_last_norm_reads():
    """The rest of the model, applied to them, is its prediction."""
    torch.manual_seed(0)
    model = MODELS["unet"]().eval()
    pixels, prediction = run(model, {**model.config, "_class_name": "UNet2DModel"})
    image = pixels.transpose(1, 2).unflatten(2, (8, 4))
    rest = model.conv_out(model.conv_act(model.conv_norm_out(image)))
    torch.testing.assert_close(rest, prediction)


def test_one_timestep_per_image_is_each_images_own():
    torch.manual_seed(0)
    model = MODELS["dit"]().eval()
    config = {**model.config, "_class_name": "DiTTransformer2DModel"}
    sample, conditions = torch.randn(2, 2, 8, 8), {"class_labels": torch.tensor([1, 2])}
    both = predict(model, config, sample, torch.tensor([999, 3]), conditions)
    for row, timestep in enumerate((999, 3)):
        alone = {"class_labels": conditions["class_labels"][row : row + 1]}
        one = predict(model, config, sample[row : row + 1], torch.tensor(timestep), alone)
        torch.testing.assert_close(both[row : row + 1], one)


def test_a_model_that_has_not_run_has_no_features():
    model = MODELS["unet"]()
    with (
        captured_features(model, {"_class_name": "UNet2DModel"}) as features,
        pytest.raises(RuntimeError, match="not run"),
    ):
        _ = features.pixels
