"""Bytes said before anything runs, against bytes written."""

import diffusers
import fixtures
import numpy as np
import pytest
import torch
from safetensors.numpy import save

from mpq_export.architectures import architecture_of
from mpq_export.bundle import WEIGHTS, read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.forecast.cost import work_of_call
from mpq_export.forecast.export import cached_shapes
from mpq_export.forecast.size import forecast_size, header_bytes
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import MODEL
from mpq_export.methods import METHODS, recipe_of
from mpq_export.methods.plan import plan_layers
from mpq_export.precision import BitSpec


def forecast(pipeline, method, bits, unmixed=()):
    """The forecast for a model without weights."""
    checkpoint = load_checkpoint(pipeline)
    model = checkpoint.model.to("meta")
    architecture = architecture_of(checkpoint.model_config)
    recipe, steps = recipe_of(method), fixtures.NUM_STEPS
    plan = plan_layers(model, architecture, BitSpec.parse(bits), recipe)
    cached = cached_shapes(model, checkpoint.model_config, steps, recipe)
    return forecast_size(model, plan, steps, unmixed, cached)


@pytest.mark.parametrize("bits", ["w3a4", "w8a8"])
@pytest.mark.parametrize("method", sorted(n for n, r in METHODS.items() if r.scaling is None))
def test_the_size_is_the_files(pipeline_folder, tmp_path, method, bits):
    folder = fixtures.quantized_bundle(pipeline_folder, tmp_path / "b", method, bits)
    written = (folder / WEIGHTS).stat().st_size
    layers = read_bundle(folder).layers
    widest = BitSpec.parse(bits).weight
    unmixed = {n for n, layer in layers.items() if len(layer.weight.plane_rows) <= widest}
    said = forecast(pipeline_folder, method, bits, unmixed)
    assert said.packed_bytes == written
    for layer in said.layers:
        assert layer.weights == layers[layer.name].weight.rows * layers[layer.name].weight.columns
        assert layer.kind == ("linear" if layers[layer.name].conv is None else "conv")
    # Without knowing which layers mix their rows, a row of steps too many at most.
    at_most = forecast(pipeline_folder, method, bits).packed_bytes
    spare = sum(layers[name].weight.rows + 4 for name in unmixed)
    assert written <= at_most <= written + spare + 64 * len(layers)
    if method == "rtn":
        assert at_most == written


TRANSFORMER = {"sample_size": 8, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
OTHERS = {
    "UNet2DConditionModel": {
        "sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16),
        "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 12,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "DiTTransformer2DModel": TRANSFORMER | {"num_embeds_ada_norm": 10},
    "PixArtTransformer2DModel": TRANSFORMER
    | {"cross_attention_dim": 16, "caption_channels": 12, "use_additional_conditions": False},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_forecast_too(tmp_path, name):
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**OTHERS[name])
    model.save_pretrained(tmp_path / "model")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    folder = fixtures.quantized_bundle(tmp_path / "model", tmp_path / "b", "rtn", "w3a8")
    said = forecast(tmp_path / "model", "rtn", "w3a8")
    assert said.packed_bytes == (folder / WEIGHTS).stat().st_size
    config = {**model.config, "_class_name": name}
    plan = plan_layers(model, architecture_of(config), BitSpec(3, 8), recipe_of("rtn"))
    work = work_of_call(model.to("meta"), config, plan, 2)
    assert work.macs > sum(parameter.numel() for parameter in model.parameters())
    assert work.layer_channels > 0


def test_the_lowered_size_is_close(pipeline_folder, lowered_folder):
    said = forecast(pipeline_folder, "mpq-dmv2", fixtures.BITS)
    written = (lowered_folder / "onnx" / Target.ORT.value / MODEL).stat().st_size
    assert said.ort_bytes == pytest.approx(written, rel=0.05)
    assert said.fp32_bytes == 4 * read_bundle(lowered_folder).quantization.full_precision_parameters


def test_the_parts_add_up(pipeline_folder):
    said = forecast(pipeline_folder, "mpq-dm", "w4a8")
    layers = sum(layer.bytes for layer in said.layers)
    assert said.packed_bytes == (
        layers + said.floating_bytes + said.table_bytes + said.header_bytes
    )
    assert said.floating_bytes > 0
    assert said.table_bytes == 8 * fixtures.NUM_STEPS


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 137])
def test_a_header_is_as_long_as_safetensors_writes_it(count):
    kinds = {"F32": np.float32, "I32": np.int32, "I8": np.int8}
    shapes = {
        f"blocks.{i}.größe": (list(kinds)[i % 3], (i, 1 + i % 7) if i % 2 else ())
        for i in range(count)
    }
    tensors = {name: np.zeros(shape, kinds[kind]) for name, (kind, shape) in shapes.items()}
    metadata = {"format": "mpq"}
    data = sum(array.nbytes for array in tensors.values())
    assert len(save(tensors, metadata)) == header_bytes(shapes, metadata) + data
