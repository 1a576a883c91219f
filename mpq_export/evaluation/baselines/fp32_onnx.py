"""The full-precision model as ONNX, traced as bundles are, and its config beside it."""

from pathlib import Path

import torch

from ...checkpoints import load_checkpoint
from ...files import write_json
from ...lowering.graph_inputs import TIMESTEP
from ...lowering.tracing import trace
from .denoiser_module import PositionalDenoiser
from .graph_files import CONFIG, MODEL

_ONE_FILE_BYTES = 1 << 30


def make(source: str | Path, folder: Path) -> None:
    """Write ``model.onnx``, beside it the weights where they are large, and ``config.json``."""
    checkpoint = load_checkpoint(source)
    config = checkpoint.model_config
    module = PositionalDenoiser(checkpoint.model, config).eval()
    program = trace(module, config, {TIMESTEP: torch.zeros(1)}, where=source)
    size = 4 * sum(parameter.numel() for parameter in module.parameters())
    program.save(str(folder / MODEL), external_data=size > _ONE_FILE_BYTES)
    write_json(folder / CONFIG, config)
