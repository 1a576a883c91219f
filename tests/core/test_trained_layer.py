"""A layer under training is the deployed one: bit for bit, before and after updates."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from mpq_export.core.activation_quantizer import fit_table
from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.equalization import smoothing_factors
from mpq_export.core.integer_reference import PackedLayer, check_layer, column_factors
from mpq_export.core.layers import FrozenLayer, StepIndex, geometry_of, weight_matrix
from mpq_export.core.low_rank import error_branch, zero_branch
from mpq_export.core.planes import ContractError, SnappedLevels, nearest_codes, pack, unpack
from mpq_export.core.trained_layer import BatchEntries, TrainedLayer
from mpq_export.core.weight_form import WeightForm
from mpq_export.core.weight_quantizer import quantize_weight

T = 3
MODULES = {
    "linear": lambda: nn.Linear(40, 24),
    "conv": lambda: nn.Conv2d(6, 8, 3, padding=1),
    "strides": lambda: nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=(0, 1)),
    "dilation": lambda: nn.Conv2d(3, 8, (2, 3), dilation=(3, 2), padding=(2, 1)),
    "uneven pads": lambda: nn.Conv2d(3, 8, (4, 2), padding="same"),
    "groups": lambda: nn.Conv2d(8, 12, 3, groups=4, padding=1),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6),
}
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def input_for(module: nn.Module, images: int = 4, seed: int = 1) -> torch.Tensor:
    """Linear layers see tokens."""
    generator = torch.Generator().manual_seed(seed)
    shape = (5, 40) if isinstance(module, nn.Linear) else (module.in_channels, 9, 8)
    return torch.randn(images, *shape, generator=generator)


def quantized(
    module: nn.Module,
    bits: int = 4,
    act_bits: int = 4,
    form: WeightForm = WeightForm.RESIDUAL,
    smoothing: bool = False,
) -> PackedLayer:
    """As a recipe quantises a layer, each table entry for inputs of another size."""
    conv, weight = geometry_of(module), weight_matrix(module)
    rows, x = len(weight), input_for(module)
    channels = x.shape[-1] if conv is None else x.shape[1]
    gain = torch.ones(channels)
    if smoothing:
        spread = torch.linspace(0.2, 5, channels)
        gain = smoothing_factors(spread, module.weight.detach(), conv.group if conv else 1)
    weight = weight * torch.from_numpy(column_factors(gain.numpy(), conv, rows))
    mixed = conv is None or conv.group == 1
    matrix = quantize_weight(
        weight, bits, form, Allocation.KURTOSIS if mixed else Allocation.EQUAL, None
    )
    samples = torch.linspace(0.5, 1.5, T)[:, None] * x.flatten()[None, :300]
    table = fit_table(
        samples, torch.ones(300), samples.amin(dim=1), samples.amax(dim=1), act_bits
    )  # fmt: skip
    layer = PackedLayer(
        pack(matrix), module.bias.detach().numpy().copy(), table.scale, table.zero_point,
        act_bits, (1 / gain).numpy(), np.zeros(channels, np.int8), conv,
    )  # fmt: skip
    check_layer(layer)
    return layer


def trained(module, start, entries=None, form=WeightForm.RESIDUAL, bits=4, **options):
    entries = BatchEntries(torch.zeros(1, dtype=torch.long)) if entries is None else entries
    return TrainedLayer(start, weight_matrix(module), form, bits, entries, **options)


def module_of(name: str) -> nn.Module:
    torch.manual_seed(3)
    return MODULES[name]()


def shake(layer: TrainedLayer, seed: int = 0, by: float = 0.1) -> None:
    """Changes such as many updates make, and what follows an update."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
        layer.act_zero_point.add_(5 * torch.randn(T, generator=generator))
    layer.project()


def assert_deployed(layer: TrainedLayer, x: torch.Tensor, exact: bool = True) -> None:
    """Every image, at an entry of its own, is what the packed layer makes of it alone."""
    packed = layer.packed()
    check_layer(packed)
    layer.entries.value = torch.arange(len(x)) % T
    together = layer(x).detach()
    frozen = FrozenLayer(packed, StepIndex())
    for image in range(len(x)):
        frozen.step.value = image % T
        alone = frozen(x[image : image + 1])
        if exact:
            assert torch.equal(together[image : image + 1], alone)
        else:
            torch.testing.assert_close(together[image : image + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("form", WeightForm)
@pytest.mark.parametrize("smoothing", [False, True])
def test_what_is_trained_is_what_is_deployed(name, form, smoothing):
    module = module_of(name)
    start = quantized(module, form=form, smoothing=smoothing)
    layer, x = trained(module, start, form=form), input_for(module)
    assert_deployed(layer, x)
    for seed in range(2):
        shake(layer, seed)
        assert_deployed(layer, x)
    changed = layer.packed()
    assert not np.array_equal(changed.act_zero_point, start.act_zero_point)
    assert not np.array_equal(unpack(changed.weight).codes, unpack(start.weight).codes)


@pytest.mark.parametrize("name", ["linear", "conv"])
@pytest.mark.parametrize("bits", [4, 8])
def test_eight_bit_activations_are_deployed_to_rounding(name, bits):
    module = module_of(name)
    layer = trained(module, quantized(module, bits, 8), bits=bits)
    assert_deployed(layer, input_for(module), exact=False)
    shake(layer)
    assert_deployed(layer, input_for(module), exact=False)


@pytest.mark.parametrize("name", ["linear", "conv", "depthwise"])
def test_shifted_channels_are_deployed(name):
    module = module_of(name)
    start = quantized(module, act_bits=4)
    shift = (np.arange(start.input_channels) % 4).astype(np.int8)
    layer = trained(module, replace(start, input_shift=shift))
    assert layer.is_shifted
    assert_deployed(layer, input_for(module))
    shake(layer)
    assert_deployed(layer, input_for(module))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(("form", "bits"), [(WeightForm.UNIFORM, 3), (WeightForm.FREE, 8)])
def test_an_untrained_uniform_layer_packs_to_its_start(name, form, bits):
    """All but codes: those of the start were chosen before its scale was refitted."""
    module = module_of(name)
    start = quantized(module, bits, form=form, smoothing=True)
    packed = trained(module, start, form=form, bits=bits).packed()
    for field in fields(PackedLayer):
        if field.name != "weight":
            np.testing.assert_equal(getattr(packed, field.name), getattr(start, field.name))
    one, other = unpack(packed.weight), unpack(start.weight)
    for name_ in ("offset", "steps", "scale", "plane_count"):
        np.testing.assert_array_equal(getattr(one, name_), getattr(other, name_))
    moved = one.codes != other.codes
    assert moved.mean() < 0.1
    # Smoothing multiplies by 1 / (1 / gain), which rounds.
    gain = column_factors(1 / start.input_factor, start.conv, start.weight.rows)
    wanted = weight_matrix(module).numpy() * gain
    errors = [np.abs(matrix.weights() - wanted) for matrix in (one, other)]
    assert np.all(errors[0] <= errors[1] + 1e-6 * np.abs(wanted))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("form", WeightForm)
def test_an_untrained_layer_on_its_own_weights_is_its_start(name, form):
    """The weight is the quantised one, as where a branch is added to it: every code stays."""
    module = module_of(name)
    start = quantized(module, form=form)
    base = torch.from_numpy(unpack(start.weight).weights())
    layer = TrainedLayer(start, base, form, 4, BatchEntries())
    real = unpack(layer.packed().weight).weights()
    np.testing.assert_allclose(real, base.numpy(), rtol=2e-7, atol=0)
    x = input_for(module)
    layer.entries.value = torch.zeros(len(x), dtype=torch.long)
    torch.testing.assert_close(layer(x), FrozenLayer(start, StepIndex())(x))


@pytest.mark.parametrize("name", ["linear", "conv", "groups"])
@pytest.mark.parametrize("smoothing", [False, True])
def test_branches_are_merged_when_packed(name, smoothing):
    """A branch is added before smoothing, and what is packed is their sum."""
    module = module_of(name)
    start = quantized(module, smoothing=smoothing)
    weight = weight_matrix(module)
    rows, columns = weight.shape
    taps = 1 if start.conv is None else int(np.prod(start.conv.kernel_shape))
    zero = zero_branch(rows, columns, taps, 2, torch.Generator().manual_seed(0))
    plain, layer = trained(module, start), trained(module, start, branch=zero)
    assert torch.equal(layer.real_weight(), plain.real_weight())
    shake(layer)
    assert_deployed(layer, input_for(module))
    gain = torch.from_numpy(column_factors(1 / start.input_factor, start.conv, rows))
    merged = (layer.weight.detach() / gain + zero()) * gain
    torch.testing.assert_close(layer.real_weight(), merged)
    matrix = unpack(layer.packed().weight)
    levels = SnappedLevels(matrix.scale.astype(np.float64), matrix.offset, matrix.steps)
    expected = nearest_codes(layer.real_weight().detach().double().numpy(), levels)
    np.testing.assert_array_equal(matrix.codes, expected)
    factor = column_factors(start.input_factor, start.conv, rows)
    base = torch.from_numpy(unpack(start.weight).weights() * factor)
    nearer = TrainedLayer(
        start, base, WeightForm.RESIDUAL, 4, BatchEntries(), error_branch(weight - base, taps, 2)
    )
    far, near = (w - weight * gain for w in (base * gain, nearer.real_weight().detach()))
    assert near.norm() < 0.95 * far.norm()


def test_updates_lower_the_error_of_a_layer():
    """Every kind of parameter takes part."""
    module = module_of("conv")
    layer, x = trained(module, quantized(module, 2)), input_for(module)
    layer.entries.value = torch.arange(len(x)) % T
    wanted = module(x).detach()
    start = float((layer(x) - wanted).square().mean().detach())
    optimizer = torch.optim.Adam(layer.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (layer(x) - wanted).square().mean()
        loss.backward()
        for name, parameter in layer.named_parameters():
            assert torch.any(parameter.grad != 0), name
        optimizer.step()
        layer.project()
    assert float(loss.detach()) < 0.85 * start
    assert_deployed(layer, x)


def test_rows_of_one_image_share_its_entry():
    """Some layers see several rows of an image in the batch's place, image by image."""
    module = module_of("linear")
    start = quantized(module)
    layer, x = trained(module, start), input_for(module, 6)
    layer.entries.value = torch.tensor([2, 0, 1])
    frozen = FrozenLayer(layer.packed(), StepIndex())
    together = layer(x)
    for image, entry in enumerate([2, 2, 0, 0, 1, 1]):
        frozen.step.value = entry
        assert torch.equal(together[image : image + 1], frozen(x[image : image + 1]))
    with pytest.raises(ContractError, match="4 rows do not belong to 3 images"):
        layer(x[:4])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_leaves_the_sums_exact(dtype):
    module = module_of("conv")
    layer, x = trained(module, quantized(module)), input_for(module)
    layer.entries.value = torch.zeros(len(x), dtype=torch.long)
    with torch.autocast("cpu", dtype):
        mixed = layer(x)
    assert torch.equal(mixed, layer(x))


@pytest.mark.parametrize("name", ["weight", "bias", "levels.log_scale", "levels.log_steps"])
def test_what_is_no_number_is_not_packed(name):
    module = module_of("conv")
    layer = trained(module, quantized(module))
    with torch.no_grad():
        layer.get_parameter(name).view(-1)[0] = float("nan")
    with pytest.raises(ContractError, match=name):
        layer.packed()


def test_tables_stay_in_the_contract():
    module = module_of("linear")
    layer = trained(module, quantized(module))
    for by in (-1000.0, 1000.0):
        with torch.no_grad():
            layer.log_act_scale.fill_(by)
            layer.act_zero_point.fill_(by)
        layer.project()
        check_layer(layer.packed())
