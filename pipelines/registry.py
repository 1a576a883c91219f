"""The model families this package knows, by name. A bundle stores the name and nothing else.

Importing this file imports no family; :func:`load_family` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from ..errors import BundleError


class Family(Protocol):
    """What a family's ``family`` module offers."""

    def build_pipeline(self, unet: Any, scheduler_config: Mapping[str, Any]) -> Any:
        """The diffusers pipeline around a denoiser."""

    def draw(
        self,
        pipeline: Any,
        num_images: int,
        num_steps: int,
        seed: int,
        on_images: Callable[[int], None],
    ) -> Any:
        """Images, float32 torch tensor ``[N, C, H, W]`` in [0, 1]; same seed, same noise."""


@dataclass(frozen=True)
class Registration:
    """What is known of a family without importing it.

    Attributes:
        name: what bundles store.
        pipeline_class: the diffusers pipeline class that its checkpoints carry.
        pixel_space: its samples are the images, in [-1, 1], and its only conditions are labels,
            drawn in turn: no other model is needed, and so no torch.
    """

    name: str
    pipeline_class: str
    pixel_space: bool


FAMILIES = {
    entry.name: entry for entry in (Registration("digits", "DigitsPipeline", pixel_space=True),)
}


def family_of_pipeline_class(class_name: str | None) -> str | None:
    """The family whose checkpoints name this pipeline class in ``model_index.json``."""
    return next((f.name for f in FAMILIES.values() if f.pipeline_class == class_name), None)


def family_registration(name: str | None) -> Registration:
    """A registered family, not imported; raises :class:`BundleError` for any other name."""
    if name not in FAMILIES:
        raise BundleError(
            f"The bundle's model family '{name}' has no pipeline here"
            if name
            else "The bundle names no model family, so nothing says how to draw images with it",
            where="config.json",
            why=f"Families: {', '.join(sorted(FAMILIES))}",
            fix="Use the bundle through its Denoiser in a pipeline of your own",
        )
    return FAMILIES[name]


def load_family(name: str | None) -> Family:
    """Import a registered family; raises :class:`BundleError` for any other name."""
    module = f"{__package__}.{family_registration(name).name}.family"
    return import_module(module)  # type: ignore[return-value]
