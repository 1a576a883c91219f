"""The original names of a UNet's tensors, written down from how ``openaimodel.py`` builds it.

Levels are numbered through: every residual block with its attention is one of ``input_blocks`` or
``output_blocks``; a downsampling is one of its own, an upsampling belongs to the block before.
"""

import torch

RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
}  # fmt: skip


def to_compvis(model):
    """The model's state dict under its original names, without a prefix."""
    modules = dict(ENDS)
    position = 1
    for level, block in enumerate(model.down_blocks):
        for layer in range(len(block.resnets)):
            _layer(modules, block, f"down_blocks.{level}", layer, f"input_blocks.{position}")
            position += 1
        if block.downsamplers:
            modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{position}.0.op"
            position += 1
    for layer, place in ((0, 0), (1, 2)):
        _residual(modules, f"mid_block.resnets.{layer}", f"middle_block.{place}")
    modules["mid_block.attentions.0"] = "middle_block.1"
    position = 0
    for level, block in enumerate(model.up_blocks):
        for layer in range(len(block.resnets)):
            _layer(modules, block, f"up_blocks.{level}", layer, f"output_blocks.{position}")
            if block.upsamplers and layer == len(block.resnets) - 1:
                place = 2 if hasattr(block, "attentions") else 1
                target = f"output_blocks.{position}.{place}.conv"
                modules[f"up_blocks.{level}.upsamplers.0.conv"] = target
            position += 1
    state = _renamed(model.state_dict(), modules)
    return _fused(state, model) if type(model).__name__ == "UNet2DModel" else state


def _layer(modules, block, source, layer, target):
    _residual(modules, f"{source}.resnets.{layer}", f"{target}.0")
    if hasattr(block, "attentions"):
        modules[f"{source}.attentions.{layer}"] = f"{target}.1"


def _residual(modules, source, target):
    for name, original in RESIDUAL.items():
        modules[f"{source}.{name}"] = f"{target}.{original}"


def _renamed(state, modules):
    result = {}
    for name, value in state.items():
        module = next((m for m in modules if name.startswith(m + ".")), None)
        assert module is not None, name
        result[modules[module] + name.removeprefix(module)] = value
    return result


def _fused(state, model):
    """Unconditional models: 1-d convolutions, with q, k and v of each head one after another."""
    result = {}
    for name, value in state.items():
        if ".group_norm." in name:
            result[name.replace("group_norm", "norm")] = value
        elif ".to_q." in name:
            parts = [state[name.replace("to_q", to)] for to in ("to_q", "to_k", "to_v")]
            size = model.config.attention_head_dim
            heads = [part.split(size)[h] for h in range(len(value) // size) for part in parts]
            fused = torch.cat(heads)
            fused = fused[..., None] if fused.ndim == 2 else fused
            result[name.replace("to_q", "qkv")] = fused
        elif name.endswith((".to_out.0.weight", ".to_out.0.bias")):
            value = value[..., None] if value.ndim == 2 else value
            result[name.replace("to_out.0", "proj_out")] = value
        elif ".to_k." not in name and ".to_v." not in name:
            result[name] = value
    return result
