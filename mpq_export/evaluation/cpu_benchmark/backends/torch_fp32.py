"""The full-precision model in torch."""

from pathlib import Path

import torch

from ....checkpoints import load_checkpoint
from ...baselines.denoiser_module import PositionalDenoiser, positional
from ...baselines.inputs import Inputs
from ...timing.steps import Step
from .torch_compiled import compiled


def open_step(folder: Path, inputs: Inputs, threads: int) -> Step:
    """Channels last, compiled where that works."""
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(folder)
    model = checkpoint.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = PositionalDenoiser(model, checkpoint.model_config).eval()
    tensors = [
        value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
        for value in positional(inputs)
    ]
    return compiled(module, tensors)
