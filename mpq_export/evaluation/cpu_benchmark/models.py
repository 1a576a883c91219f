"""The models that are measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..literature import MODELS as LITERATURE


@dataclass(frozen=True)
class BenchmarkModel:
    """A denoiser.

    Attributes:
        name: of ``--model``.
        batches: images per step, each measured by itself.
        config: diffusers' component config of a model with random weights, or None.
        package: of a trained model: the Python package that holds its ``checkpoint`` folder.
        in_pairs: it is too large for more than one peer beside ours in memory.
    """

    name: str
    batches: tuple[int, ...]
    config: Mapping[str, Any] | None = None
    package: str | None = None
    in_pairs: bool = False

    def trained_checkpoint(self) -> Path | None:
        """The folder of the trained weights; None where weights are random."""
        if self.package is None:
            return None
        spec = find_spec(self.package)
        assert spec is not None, self.package
        assert spec.submodule_search_locations, self.package
        return Path(spec.submodule_search_locations[0]) / "checkpoint"

    def save(self, folder: Path) -> None:
        """Write the checkpoint: a copy of the trained one, or seeded random weights."""
        trained = self.trained_checkpoint()
        if trained is not None:
            shutil.copytree(trained, folder, dirs_exist_ok=True)
            return
        import diffusers
        import torch

        assert self.config is not None
        torch.manual_seed(0)
        cls = getattr(diffusers, self.config["_class_name"])
        cls.from_config(dict(self.config)).save_pretrained(folder)
        scheduler: Any = diffusers.DDIMScheduler()
        scheduler.save_pretrained(folder / "scheduler")


def _literature(name: str) -> Mapping[str, Any]:
    return next(model.config for model in LITERATURE if model.name == name)


MODELS = {
    model.name: model
    for model in (
        BenchmarkModel("digits", (2,), package="mpq_export.pipelines.digits"),
        BenchmarkModel(
            "unet26m",
            (1, 2),
            {
                "_class_name": "UNet2DModel",
                "sample_size": 32,
                "in_channels": 3,
                "out_channels": 3,
                "layers_per_block": 2,
                "block_out_channels": [128, 256, 256],
                "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
                "attention_head_dim": 32,
            },
        ),
        BenchmarkModel(
            "sd15",
            (2,),
            {**_literature("Stable Diffusion 1.x UNet"), "sample_size": 32},
            in_pairs=True,
        ),
        BenchmarkModel("dit", (2,), {**_literature("DiT-XL/2 256"), "num_layers": 6}),
    )
}
