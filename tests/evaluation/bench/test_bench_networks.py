"""Networks of others: the libraries stand in their places, the weights are those of small ones."""

import hashlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tiny_pipelines
import torch
from torch import nn
from torchmetrics.functional.image import lpips as functional
from torchmetrics.image import lpip as modular

from mpq_export.evaluation.bench import networks
from mpq_export.evaluation.bench.metrics import Metric
from mpq_export.evaluation.bench.network_quality import NetworkJudging
from mpq_export.evaluation.bench.networks import NotOnDisk

SIDE = 32


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.random((40, 3, SIDE, SIDE), np.float32)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's hub cache, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(networks, "CLIP", str(tmp_path / "nowhere"))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def put(hub, monkeypatch, name: str, state: dict) -> None:
    """Weights under the name that the constant then has."""
    torch.save(state, hub / "weights")
    digest = hashlib.sha256((hub / "weights").read_bytes()).hexdigest()
    file = f"{name.lower()}-{digest[:8]}.pth"
    (hub / "weights").rename(hub / file)
    monkeypatch.setattr(networks, name, file)


@pytest.fixture
def vision(hub, monkeypatch):
    """torchvision with AlexNet alone, whose weights are random ones in the hub's cache."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    put(hub, monkeypatch, "ALEXNET", features.state_dict())
    module = ModuleType("torchvision")
    module.models = SimpleNamespace(
        alexnet=lambda weights: SimpleNamespace(features=features),
        AlexNet_Weights=SimpleNamespace(DEFAULT=None, IMAGENET1K_V1=None),
    )
    module.__spec__ = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "torchvision", module)
    for part in (functional, modular):
        monkeypatch.setattr(part, "_TORCHVISION_AVAILABLE", True)


class TinyInception(nn.Module):
    """What torch-fidelity's extractor takes and gives."""

    def __init__(self, name, features, feature_extractor_weights_path):
        super().__init__()
        assert (name, features) == ("inception", ["2048"])
        self.projection = torch.load(feature_extractor_weights_path)["projection"]

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (x.flatten(2).float().mean(2) @ self.projection,)


@pytest.fixture
def fidelity(hub, monkeypatch):
    """torch-fidelity whose extractor projects mean colours."""
    generator = torch.Generator().manual_seed(0)
    put(hub, monkeypatch, "INCEPTION", {"projection": torch.randn(3, 8, generator=generator)})
    package, module = ModuleType("torch_fidelity"), ModuleType("extractor")
    package.__spec__ = SimpleNamespace()
    module.FeatureExtractorInceptionV3 = TinyInception
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)


@pytest.fixture
def clip(tmp_path, monkeypatch, hub):
    """A whole CLIP of one layer each, saved as transformers does."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    torch.manual_seed(0)
    text = tiny_pipelines.text_encoder().config.to_dict()
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=SIDE, patch_size=8,
    )  # fmt: skip
    folder = tmp_path / "clip"
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    ).save_pretrained(folder)
    size = {"shortest_edge": SIDE}
    processor = CLIPImageProcessor(size=size, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(processor, tiny_pipelines.tokenizer(tmp_path / "words")).save_pretrained(folder)
    monkeypatch.setattr(networks, "CLIP", str(folder))


def test_what_is_not_here_is_said(hub, images):
    judging = NetworkJudging(images, ())
    assert judging.figures(images[::-1].copy()) == {}
    assert set(judging.not_measured) == {
        Metric.LPIPS, Metric.FRECHET_INCEPTION, Metric.CLIP_SCORE,
    }  # fmt: skip
    assert "prompt" in judging.not_measured[Metric.CLIP_SCORE]
    with pytest.raises(NotOnDisk, match="not in the cache"):
        networks.clip_score(["a fox"])


def test_lpips_is_a_distance(vision, images):
    distances = networks.lpips()
    noise = np.random.default_rng(1).standard_normal(images.shape).astype(np.float32)
    near, far = (np.clip(images + strength * noise, 0, 1) for strength in (0.02, 0.3))
    assert np.array_equal(distances(images, images), np.zeros(len(images)))
    assert (distances(images, near) < distances(images, far)).all()
    # A pair's distance does not depend on its neighbours.
    alone = distances(images[33:34], far[33:34])
    np.testing.assert_allclose(alone, distances(images, far)[33:34], rtol=1e-5)
    grey = images[:, :1]
    assert distances(grey, far[:, :1]).shape == (40,)


def test_a_file_of_that_name_alone_is_not_opened(vision, hub):
    (hub / networks.ALEXNET).write_bytes(b"something else")
    with pytest.raises(NotOnDisk, match="not the file that its name says"):
        networks.lpips()


def test_images_that_are_too_small_have_no_lpips(vision, images):
    small = images[..., :16, :16].copy()
    assert "31 pixels" in NetworkJudging(small, ()).not_measured[Metric.LPIPS]


def test_inceptions_distance_grows_with_the_difference(fidelity, images):
    judging = NetworkJudging(images, ())
    near = judging.figures(np.clip(images + 0.01, 0, 1))[Metric.FRECHET_INCEPTION]
    far = judging.figures(np.clip(images + 0.2, 0, 1))[Metric.FRECHET_INCEPTION]
    assert 0 < near.value < far.value
    assert Metric.FRECHET_INCEPTION not in judging.figures(images)


def test_clip_scores_images_with_their_own_prompts(clip, images):
    prompts = ["a red fox", "snow", "two"]
    scores = networks.clip_score(prompts)(images)
    assert scores.shape == (40,)
    assert (scores >= 0).all()
    assert (scores <= 100).all()
    for number in (0, 1, 34):
        alone = networks.clip_score([prompts[number % 3]])(images[number : number + 1])
        np.testing.assert_allclose(alone, scores[number], rtol=1e-4, atol=1e-4)
    assert len(set(np.round(scores, 6))) > 3
