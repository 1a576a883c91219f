"""A quantised program in torch, lowered by Inductor to oneDNN's int8 operators."""

from pathlib import Path

import torch

# Loading the program needs its operators registered.
import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401

from ....lowering.graph_inputs import SAMPLE
from ...baselines.denoiser_module import positional
from ...baselines.graph_files import TORCH
from ...baselines.inputs import Inputs
from ...timing.steps import Step
from .torch_compiled import compiled


def open_step(folder: Path, inputs: Inputs, threads: int) -> Step:
    """Compiled: without Inductor such a program runs in float32."""
    torch.set_num_threads(threads)
    module = torch.export.load(folder / TORCH.format(len(inputs[SAMPLE]))).module()
    return compiled(module, list(positional(inputs)))
