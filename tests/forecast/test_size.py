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
from mpq_export.core.channel_parts import parts_by_module
from mpq_export.core.planes import words_per_row
from mpq_export.forecast import parts
from mpq_export.forecast.cost import work_of_call
from mpq_export.forecast.export import cached_shapes
from mpq_export.forecast.parts import forecast_split
from mpq_export.forecast.size import PartShape, forecast_size, header_bytes, with_votes
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import MODEL
from mpq_export.methods import METHODS, recipe_of
from mpq_export.methods.layer_parts import shift_room, shift_windows
from mpq_export.methods.plan import plan_layers
from mpq_export.precision import BitSpec
from mpq_export.reconstruction.choices import PowerOfTwoChoices
from mpq_export.temporal.choices import CacheChoices


def forecast(pipeline, recipe, bits, unmixed=(), unscaled=(), made=None):
    """The forecast for a model without weights, for what votes lead to in the end or, unknown, for
    parts that no vote has split."""
    checkpoint = load_checkpoint(pipeline)
    model, config, steps = checkpoint.model.to("meta"), checkpoint.model_config, fixtures.NUM_STEPS
    plan = plan_layers(model, architecture_of(config), BitSpec.parse(bits), recipe)
    cached = cached_shapes(model, config, steps, recipe)
    split = forecast_split(model, config, plan, recipe)
    said, most = (
        forecast_size(model, plan.unscaled(unscaled), steps, unmixed, cached, own)
        for own in ((split.least, split.most) if made is None else (made, made))
    )
    return with_votes(said, most) if made is None else said


def parts_made(bundle):
    """The parts of every module of a bundle, one where it is a layer."""
    names = {name: [name] for name in bundle.layers if name not in bundle.channels}
    return {
        module: [
            PartShape(layer.input_channels, bool(layer.input_shift.any()))
            for layer in (bundle.layers[name] for name in own)
        ]
        for module, own in (names | parts_by_module(bundle.channels)).items()
    }


def shortened(method):
    """A method's recipe, whose stages learn next to nothing."""
    recipe = recipe_of(method).trained_for(0)
    stages = {
        name: stage.model_copy(update={"iterations": 1, "samples": 6})
        for name in ("scaling", "temporal_rounding", "rounding")
        if (stage := getattr(recipe, name)) is not None
    }
    return recipe.model_copy(update=stages | {"calibration_images": 4})


@pytest.mark.parametrize("bits", ["w3a4", "w8a8"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_size_is_the_files(pipeline_folder, tmp_path, method, bits):
    recipe = shortened(method)
    folder = fixtures.quantized_bundle(
        pipeline_folder, tmp_path / "b", method, bits,
        **{name: getattr(recipe, name) for name in type(recipe).model_fields if name != "method"},
    )  # fmt: skip
    written, bundle = (folder / WEIGHTS).stat().st_size, read_bundle(folder)
    layers, widest = bundle.layers, BitSpec.parse(bits).weight
    unmixed = {n for n, layer in layers.items() if len(layer.weight.plane_rows) <= widest}
    unscaled = {
        name.removesuffix(".0").removesuffix(".1") if name in bundle.channels else name
        for name, layer in layers.items()
        if recipe.scaling is not None and not (layer.input_factor != 1).any()
    }
    said = forecast(pipeline_folder, recipe, bits, unmixed, unscaled, parts_made(bundle))
    assert said.packed_bytes == written
    whole = {name: [la] for name, la in layers.items() if name not in bundle.channels}
    for module, names in parts_by_module(bundle.channels).items():
        whole[module] = [layers[name] for name in names]
    for layer in said.layers:
        own = whole[layer.name]
        assert layer.weights == sum(part.weight.rows * part.weight.columns for part in own)
        assert layer.kind == ("linear" if own[0].conv is None else "conv")
        assert layer.parts == len(own)
    # Without knowing which layers mix their rows, a row of steps too many at most, and the factors
    # of layers that learned none.
    blind = forecast(pipeline_folder, recipe, bits)
    spare = sum(layers[name].weight.rows + 4 for name in unmixed)
    spare += sum(4 * sum(part.input_channels for part in whole[name]) for name in unscaled)
    assert written <= blind.packed_bytes + blind.voted_bytes
    assert blind.packed_bytes <= written + spare + 64 * len(layers)
    if method == "rtn":
        assert blind.packed_bytes == written
        assert blind.voted_bytes == 0


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
    said = forecast(tmp_path / "model", recipe_of("rtn"), "w3a8")
    assert said.packed_bytes == (folder / WEIGHTS).stat().st_size
    config = {**model.config, "_class_name": name}
    plan = plan_layers(model, architecture_of(config), BitSpec(3, 8), recipe_of("rtn"))
    work = work_of_call(model.to("meta"), config, plan, 2)
    assert work.macs > sum(parameter.numel() for parameter in model.parameters())
    assert work.layer_channels > 0


VOTING = PowerOfTwoChoices(agreement=0.4)  # so that the tiny model has shifts at all
SPLITTING = {
    "halves": {"split_concatenations": True},
    "votes": {"power_of_two": VOTING},
    "both": {"split_concatenations": True, "power_of_two": VOTING},
    "no halves of the temporal block": {
        "split_concatenations": True, "power_of_two": VOTING, "cache": CacheChoices(),
    },
}  # fmt: skip


@pytest.mark.parametrize("bits", ["w4a6", "w4a8"])
@pytest.mark.parametrize("changes", SPLITTING.values(), ids=SPLITTING)
def test_sums_of_parts_take_what_is_said(pipeline_folder, tmp_path, changes, bits):
    """Exactly, for the parts that came out; between the least and the most before."""
    folder = fixtures.quantized_bundle(
        pipeline_folder, tmp_path / "b", "rtn", bits, calibration_images=4, **changes
    )
    bundle, written = read_bundle(folder), (folder / WEIGHTS).stat().st_size
    made, recipe = parts_made(bundle), recipe_of("rtn").model_copy(update=changes)
    exact = forecast(pipeline_folder, recipe, bits, made=made)
    assert exact.packed_bytes == written
    assert {la.name: la.parts for la in exact.layers} == {n: len(own) for n, own in made.items()}
    said = forecast(pipeline_folder, recipe, bits)
    assert said.packed_bytes <= written <= said.packed_bytes + said.voted_bytes
    if "power_of_two" in changes:
        assert said.voted_bytes > 0
        assert written > said.packed_bytes, "the tiny model has shifts"
    else:
        assert said.voted_bytes == 0
        assert written == said.packed_bytes


def test_the_most_parts_are_those_of_a_bound(pipeline_folder):
    """All ways in which the shifts of some channels can fall take no more words than are said."""
    rng = np.random.default_rng(0)
    for channels, taps, bits in ((1, 9, 8), (3, 1, 8), (40, 9, 8), (70, 1, 6), (33, 9, 4)):
        widest = parts._widest(channels, taps, 3, bits)
        assert sum(part.channels for part in widest) == channels
        said = sum(part.words or words_per_row(taps * part.channels) for part in widest)
        for _ in range(50):
            shifts = rng.integers(0, 4, channels)
            windows = shift_windows(shifts - shifts.min(), shift_room(bits))
            assert len(windows) <= len(widest)
            assert sum(words_per_row(taps * len(own)) for own, _ in windows) <= said


def test_the_lowered_size_is_close(pipeline_folder, lowered_folder):
    said = forecast(pipeline_folder, recipe_of("mpq-dmv2"), fixtures.BITS)
    written = (lowered_folder / "onnx" / Target.ORT.value / MODEL).stat().st_size
    assert said.ort_bytes == pytest.approx(written, rel=0.05)
    assert said.fp32_bytes == 4 * read_bundle(lowered_folder).quantization.full_precision_parameters


def test_the_parts_add_up(pipeline_folder):
    said = forecast(pipeline_folder, recipe_of("mpq-dm"), "w4a8")
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
