"""Attacks on the model and the scheduler that a bundle describes, hashes fixed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mpq_export.bundle import CONFIG, SCHEDULER, read_bundle
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.names import Runtime
from mpq_export.schedulers import sampling_schedule

from .attack import CORRECT, EITHER, REFUSED, Attack
from .bundles import Make, Tensors, lowered, with_config, with_json, with_tensors

MODELS, SCHEDULERS = "bundle models", "schedulers"
STEPS = 3


def open_in_torch(folder: Path) -> None:
    """The door: the torch denoiser, used once."""
    import torch

    denoiser = open_denoiser(read_bundle(folder), Runtime.TORCH)
    labels = torch.zeros(1, dtype=torch.int64)
    prediction = denoiser(torch.zeros(1, 2, 8, 8), 5.0, class_labels=labels)
    assert prediction.shape == (1, 2, 8, 8)


def make_noise(folder: Path) -> None:
    """The door: the inputs that mpq-check makes up from a bundle's config."""
    from mpq_export.evaluation.check import _noise_inputs

    inputs = _noise_inputs(read_bundle(folder), np.arange(1), 1, 0)
    assert inputs[0].sample.ndim == 4


def make_schedule(folder: Path) -> None:
    """The door: the timesteps of a bundle's scheduler."""
    schedule = sampling_schedule(read_bundle(folder).scheduler_config, STEPS)
    assert schedule.entries.shape == (STEPS,)


def _renamed(old: str, new: str) -> Make:
    """A layer of another name, in config and tensors alike."""

    def edit_config(data: dict[str, Any]) -> None:
        layers = data["quantization_config"]["layers"]
        layers[new] = layers.pop(old)

    def edit_tensors(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(f"{old}.")]:
            tensors[f"{new}.{name.removeprefix(f'{old}.')}"] = tensors.pop(name)

    return with_tensors(edit_tensors, with_json(CONFIG, edit_config, lowered))


HUGE: dict[str, dict[str, Any]] = {
    "ten million layers per block": {"layers_per_block": 10**7},
    "a million channels": {"block_out_channels": [1 << 20, 1 << 20], "norm_num_groups": 4},
    "a trillion channels": {"block_out_channels": [10**12, 10**12]},
    "twice the channels": {"block_out_channels": [16, 32]},
    "50,000 blocks": {
        "block_out_channels": [8] * 50_000,
        "down_block_types": ["DownBlock2D"] * 50_000,
        "up_block_types": ["UpBlock2D"] * 50_000,
    },
    "a trillion classes": {"num_class_embeds": 10**12},
    "a million input channels": {"in_channels": 10**6},
    "fourier features of a billion": {
        "time_embedding_type": "fourier", "block_out_channels": [10**9, 16]
    },
}  # fmt: skip
STRANGE: dict[str, dict[str, Any]] = {
    "no groups": {"norm_num_groups": 0},
    "heads of size 0": {"attention_head_dim": 0},
    "no blocks": {"block_out_channels": [], "down_block_types": [], "up_block_types": []},
    "block types that are code": {"down_block_types": ["os.system('touch canary')", "x"]},
    "an activation that is code": {"act_fn": "__import__('os').system('touch canary')"},
    "channels that are words": {"in_channels": "two"},
    "channels that are missing": {"in_channels": None},
    "negative layers": {"layers_per_block": -5},
    "keys called like methods": {"forward": 1, "__init__": 2, "self": 3, "from_config": 4},
    **{
        f"the class {name!r}": {"_class_name": name}
        for name in ("os", "UNet2DModel.__init__", "../UNet2DModel", "DiffusionPipeline", "", None,
                     ["UNet2DModel"], "AutoModel", "__builtins__", "pipelines")
    },
    "custom code by auto_map": {
        "_class_name": "Evil", "auto_map": {"AutoModel": "modeling_evil.Evil"}
    },
}  # fmt: skip
NOISE: dict[str, dict[str, Any]] = {
    f"{key} {value!r}": {key: value}
    for key, values in {
        "sample_size": (10**9, -1, 0, "8", [8], [8, 8, 8], [10**6, 8], None, 8.5, True, {}),
        "in_channels": (10**12, -1, 0, "2", None, 2.5, [2], True),
        "num_class_embeds": (10**30, -4, "four", [4], 4.5, {"a": 1}),
    }.items()
    for value in values
}
SCHEDULER_CONFIGS: dict[str, dict[str, Any]] = {
    **{
        f"the class {name!r}": {"_class_name": name}
        for name in ("os", "UNet2DModel", "SchedulerMixin", "ConfigMixin", "schedulers", None, 5,
                     "FlaxDDIMScheduler", "StableDiffusionPipeline", "__class__", "__getattr__", "",
                     "../DDIMScheduler", "LMSDiscreteScheduler\x1b]0;owned\x07", "\u202eevil")
    },
    **{
        f"{value!r} training timesteps": {"num_train_timesteps": value}
        for value in (10**9, 10**12, 10**400, 0, -1, "1000", None, 1e3, [1000], True, 2)
    },
    "a solver order of a billion": {
        "_class_name": "DPMSolverMultistepScheduler", "solver_order": 10**9
    },
    "betas that are words": {"trained_betas": ["a", "b"]},
    "betas that are infinite": {"beta_start": 1e308},
    "an unknown beta schedule": {"beta_schedule": "__import__('os').system('touch canary')"},
    "keys called like a dictionary's methods": {"keys": 5, "items": 5, "get": 5, "pop": 5},
    "a spacing that does not exist": {"timestep_spacing": "evil"},
    "a clip that is a list": {"clip_sample": [1], "thresholding": [2]},
}  # fmt: skip
HARMLESS = ("keys called like a dictionary's methods", "a clip that is a list")

ATTACKS = [
    *(
        Attack(MODELS, f"a config of {what}", with_config(lowered, **change), open_in_torch)
        for what, change in HUGE.items()
    ),
    *(
        Attack(MODELS, f"a config with {what}", with_config(lowered, **change), open_in_torch)
        for what, change in STRANGE.items()
        if what != "keys called like methods"
    ),
    Attack(
        MODELS, "a config with keys called like methods",
        with_config(lowered, **STRANGE["keys called like methods"]), open_in_torch, EITHER,
    ),
    *(
        Attack(MODELS, f"made-up inputs by {what}", with_config(lowered, **change), make_noise,
               names="config.json")
        for what, change in NOISE.items()
    ),
    *(
        Attack(MODELS, f"a layer called {name}", _renamed("conv_in", name), open_in_torch)
        for name in ("__class__", "forward", "conv_norm_out", "time_proj", "down_blocks",
                     "down_blocks.0", "_modules", "conv_out", "weight", "self", "0")
    ),
    Attack(
        MODELS, "a parameter of another shape",
        with_tensors(lambda t: t.update({"conv_norm_out.weight": np.ones(9, np.float32)}), lowered),
        open_in_torch,
    ),
    Attack(
        MODELS, "a parameter that is missing",
        with_tensors(lambda t: t.pop("conv_norm_out.weight"), lowered), open_in_torch,
        names="conv_norm_out.weight",
    ),
    Attack(
        MODELS, "a parameter that no module has",
        with_tensors(lambda t: t.update({"__dict__.x": np.ones(1, np.float32)}), lowered),
        open_in_torch, names="__dict__.x",
    ),
    *(
        Attack(
            SCHEDULERS, what,
            with_json(SCHEDULER, lambda data, change=change: data.update(change), lowered),
            make_schedule, EITHER if what in HARMLESS else REFUSED,
        )
        for what, change in SCHEDULER_CONFIGS.items()
    ),
    Attack(MODELS, "nothing at all: the model as it is", lowered, open_in_torch, CORRECT),
    Attack(SCHEDULERS, "nothing at all: the scheduler as it is", lowered, make_schedule, CORRECT),
]  # fmt: skip
