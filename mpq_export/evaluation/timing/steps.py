"""What a worker runs: a module's ``open_step(folder, inputs, **words) -> Step``.

``inputs`` are those of a denoising step by the names that graphs give them; ``words`` are what JSON
can hold. Such a module is imported in the worker's process alone, before the clock of loading
starts, and imports its library at its top, or in an ``import_libraries(**words)`` where the words
decide which that is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """An opened model.

    Attributes:
        run: one denoising step on the given inputs.
        runs_as: how, in a few words; may be empty.
        draw: images from noise, all steps; None where no images are timed.
        gpu_memory: bytes on a GPU that the model has taken so far, or why that is not known; None
            where it runs on none.
    """

    run: Callable[[], Any]
    runs_as: str = ""
    draw: Callable[[], Any] | None = None
    gpu_memory: Callable[[], int | str] | None = None
