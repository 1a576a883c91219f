"""Torch int8: pt2e quantisation with torchao's quantiser for x86 and Inductor."""

from pathlib import Path

import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

from ....checkpoints import load_checkpoint
from ....files import write_json
from ...baselines.denoiser_module import PositionalDenoiser, positional
from ...baselines.graph_files import CONFIG, TORCH
from ...baselines.inputs import Inputs, calibration_inputs

BATCHES = (1, 2)


def make(source: Path, folder: Path) -> None:
    """Quantise statically and save one exported program per batch: exporting refuses a free one."""
    checkpoint = load_checkpoint(source)
    module = PositionalDenoiser(checkpoint.model, checkpoint.model_config).eval()
    for batch in BATCHES:
        torch.export.save(
            _quantized(module, calibration_inputs(checkpoint.model_config, batch)),
            folder / TORCH.format(batch),
        )
    write_json(folder / CONFIG, checkpoint.model_config)


@torch.no_grad()
def _quantized(module: PositionalDenoiser, draws: list[Inputs]) -> torch.export.ExportedProgram:
    examples = [positional(draw) for draw in draws]
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(module, examples[0]).module(), quantizer)
    for example in examples:
        prepared(*example)
    quantized = convert_pt2e(prepared)
    _drop_unread_parameters(quantized)
    return torch.export.export(quantized, examples[0])


def _drop_unread_parameters(module: torch.fx.GraphModule) -> None:
    """The float32 weights, which would be saved beside those in int8."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in list(module.named_parameters()):
        if name not in read:
            parent, _, attribute = name.rpartition(".")
            delattr(module.get_submodule(parent), attribute)
