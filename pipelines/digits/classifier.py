"""A small digit classifier: names drawn digits; its features measure Frechet distance."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..judge import Classifier
from .data import NUM_CLASSES

WEIGHTS = Path(__file__).parent / "classifier.safetensors"


class DigitClassifier(Classifier):
    """Images ``[N, 1, 16, 16]`` in [-1, 1] to logits ``[N, 10]``, by way of 64 features."""

    num_classes, num_features = NUM_CLASSES, 64

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48 * 16, self.num_features),
            nn.ReLU(),
        )
        self.head = nn.Linear(self.num_features, NUM_CLASSES)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The 64 activations before the last layer."""
        return self.body(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class logits."""
        return self.head(self.body(images))

    def save(self, path: Path = WEIGHTS) -> None:
        """Write the weights next to this file."""
        save_file(self.state_dict(), path)

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> DigitClassifier:
        """The trained classifier that ships with the package."""
        model = cls()
        model.load_state_dict(load_file(path))
        return model.eval().requires_grad_(False)
