"""Which photograph, and which way up: names drawn patches; its features measure distance."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..judge import Classifier
from .data import NUM_CLASSES

WEIGHTS = Path(__file__).parent / "classifier.safetensors"
ROTATIONS = 4


class PhotoClassifier(Classifier):
    """Patches ``[N, 3, 32, 32]`` in [-1, 1] to logits ``[N, 10]``, by way of 64 features.

    The features must also tell by how many quarter turns a patch was rotated, so that they hold
    more than its colours.
    """

    num_classes, num_features = NUM_CLASSES, 64

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, self.num_features),
            nn.ReLU(),
        )
        self.photograph = nn.Linear(self.num_features, NUM_CLASSES)
        self.rotation = nn.Linear(self.num_features, ROTATIONS)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The 64 activations before the last layers."""
        return self.body(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the photographs."""
        return self.photograph(self.body(images))

    def save(self, path: Path = WEIGHTS) -> None:
        """Write the weights next to this file."""
        save_file(self.state_dict(), path)

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> PhotoClassifier:
        """The trained classifier that ships with the package."""
        model = cls()
        model.load_state_dict(load_file(path))
        return model.eval().requires_grad_(False)
