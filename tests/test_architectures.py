"""What is known of each model class: its shapes, its conditions, its 8-bit layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures import NUM_CLASSES

from mpq_export.architectures import ARCHITECTURES, ConditionSpec, architecture_of
from mpq_export.errors import CheckpointError

UNET = {"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 2}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_is_found_by_its_class(name: str) -> None:
    import diffusers

    assert architecture_of({"_class_name": name}) is ARCHITECTURES[name]
    assert ARCHITECTURES[name].class_name == name
    assert issubclass(getattr(diffusers, name), diffusers.ModelMixin)


@pytest.mark.parametrize("config", [{}, {"_class_name": None}, {"_class_name": ["UNet2DModel"]}])
def test_other_classes_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="are not supported") as caught:
        architecture_of(config)
    assert "UNet2DModel" in caught.value.why


@pytest.mark.parametrize(
    ("size", "shape"), [(8, (2, 8, 8)), ([8, 12], (2, 8, 12)), ((4, 6), (2, 4, 6))]
)
def test_the_sample_shape_comes_from_the_config(size: Any, shape: tuple[int, ...]) -> None:
    assert architecture_of(UNET).sample_shape({**UNET, "sample_size": size}) == shape


@pytest.mark.parametrize(
    "config", [{**UNET, "sample_size": None}, {"_class_name": "UNet2DModel", "in_channels": 2}]
)
def test_a_model_without_a_size_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="no sample_size"):
        architecture_of(config).sample_shape(config)


@pytest.mark.parametrize(
    ("change", "conditions"),
    [
        ({}, ()),
        ({"num_class_embeds": None, "class_embed_type": None}, ()),
        ({"num_class_embeds": 10}, (ConditionSpec("class_labels", 10),)),
    ],
)
def test_conditions_come_from_the_config(change: dict[str, Any], conditions: tuple) -> None:
    assert architecture_of(UNET).conditions({**UNET, **change}) == conditions


@pytest.mark.parametrize("kind", ["timestep", "identity", "projection"])
def test_other_class_embeddings_are_refused(kind: str) -> None:
    config = {**UNET, "class_embed_type": kind, "num_class_embeds": 10}
    with pytest.raises(CheckpointError, match=f"class_embed_type '{kind}' is not supported"):
        architecture_of(UNET).conditions(config)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("conv_in", "first convolution"),
        ("conv_out", "last convolution"),
        ("time_embedding.linear_1", "timestep embedding"),
        ("time_embedding.linear_2", "timestep embedding"),
        ("time_embedding", None),
        ("down_blocks.0.resnets.0.time_emb_proj", None),
        ("down_blocks.0.resnets.0.conv_shortcut", None),
        ("down_blocks.0.conv_in", None),
        ("conv_in2", None),
        ("", None),
    ],
)
def test_eight_bit_layers_of_the_unet(layer: str, reason: str | None) -> None:
    assert architecture_of(UNET).eight_bit_reason(layer) == reason


def test_every_eight_bit_pattern_meets_a_layer_of_a_real_model(pipeline_folder: Path) -> None:
    from diffusers import UNet2DModel

    model = UNet2DModel.from_pretrained(pipeline_folder / "unet")
    architecture = architecture_of(model.config)
    found = {architecture.eight_bit_reason(name) for name, _ in model.named_modules()} - {None}
    assert found == set(architecture.eight_bit.values())


def test_a_saved_config_says_everything(pipeline_folder: Path) -> None:
    config = json.loads((pipeline_folder / "unet" / "config.json").read_text())
    architecture = architecture_of(config)
    assert architecture.sample_shape(config) == (2, 8, 8)
    assert architecture.conditions(config) == (ConditionSpec("class_labels", NUM_CLASSES),)


def test_boards_without_torch_can_read_configs_and_bundles() -> None:
    code = (
        "import sys, mpq_export.architectures, mpq_export.bundle, mpq_export.schedulers; "
        "sys.exit(len({'torch', 'diffusers', 'onnxruntime'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
