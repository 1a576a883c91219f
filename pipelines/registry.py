"""The model families this package knows, by name. A bundle stores the name and nothing else.

Importing this file imports no family; :func:`load_family` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import BundleError, RecipeError

if TYPE_CHECKING:
    from .judge import Judge


@dataclass(frozen=True)
class DrawRequest:
    """What is to be drawn.

    Attributes:
        num_images: how many images.
        num_steps: sampler steps.
        seed: of the noise; the same seed gives the same noise in every runtime.
        prompts: texts, used in turn; empty for models without text.
        guidance: classifier-free guidance scale; None is the pipeline's own.
    """

    num_images: int
    num_steps: int
    seed: int
    prompts: tuple[str, ...] = ()
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise RecipeError("The guidance is no number", where="--guidance", fix="Try 7.5")

    def without_text(self, family: str) -> DrawRequest:
        """Itself; raises :class:`RecipeError` if it holds what only text models use."""
        if self.prompts or self.guidance is not None:
            raise RecipeError(
                f"The family '{family}' takes neither prompts nor guidance",
                where="--prompt, --guidance",
                fix="Leave them out",
            )
        return self


class Family(Protocol):
    """What a family's ``family`` module offers."""

    def build_pipeline(
        self, denoiser: Any, scheduler_config: Mapping[str, Any], bundle: Path
    ) -> Any:
        """The diffusers pipeline around a denoiser; ``bundle`` may hold further components."""

    def draw(self, pipeline: Any, request: DrawRequest, on_images: Callable[[int], None]) -> Any:
        """Images, float32 ``[N, C, H, W]`` in [0, 1]."""

    def draw_batch(self, pipeline: Any, request: DrawRequest, part: range, noise: Any) -> Any:
        """The images of these numbers alone, all at once, with the noise of torch's generator or
        of a list of one for each of them."""


@dataclass(frozen=True)
class Registration:
    """What is known of a family without importing it.

    Attributes:
        name: what bundles store.
        pipeline_class: the diffusers pipeline class that its checkpoints carry, if it is one.
        pixel_space: its samples are the images, in [-1, 1], and its only conditions are labels,
            drawn in turn: no other model is needed, and so no torch.
        judge: module and class that measures its images, or None.
    """

    name: str
    pipeline_class: str | None
    pixel_space: bool
    judge: str | None = None


GENERAL = "general"
"""The family of all other diffusers pipelines: their components are copied into the bundle."""

FAMILIES = {
    entry.name: entry
    for entry in (
        Registration("digits", "DigitsPipeline", True, "digits.quality.DigitsJudge"),
        Registration("digits_dit", "DigitsDiTPipeline", True, "digits.quality.DigitsJudge"),
        Registration("photos", "PhotosPipeline", True, "photos.quality.PhotosJudge"),
        Registration(GENERAL, None, False),
    )
}


def family_of_pipeline_class(class_name: str | None) -> str | None:
    """The family whose checkpoints name this pipeline class in ``model_index.json``."""
    own = (f.name for f in FAMILIES.values() if f.pipeline_class == class_name)
    return next(own, None) if class_name else None


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


def load_judge(name: str | None) -> Judge:
    """The judge of a registered family; raises :class:`BundleError` if it has none."""
    judge = family_registration(name).judge
    if judge is None:
        raise BundleError(
            f"Nothing measures the images of the family '{name}'",
            why=f"Families with a judge: {', '.join(f.name for f in FAMILIES.values() if f.judge)}",
        )
    module, _, cls = judge.rpartition(".")
    return getattr(import_module(f"{__package__}.{module}"), cls)()  # type: ignore[no-any-return]
