"""``mpq::packed_layer`` on tensors of the processor, through the emulated kernels."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import layer_case, layer_cases
from plugins.kernels.cases import assert_same_bits, random_case
from plugins.kernels.emulated import emulated_kernels

from mpq_export.core.integer_reference import ConvGeometry, run_layer
from mpq_export.errors import LayerError
from mpq_export.runtimes.gpu_kernels import operator
from mpq_export.runtimes.gpu_kernels.device import DeviceLayer
from mpq_export.runtimes.gpu_kernels.operator import PackedModule, packed_layer
from mpq_export.runtimes.gpu_kernels.torch_gpu import emulated_gpu


@pytest.fixture(scope="module")
def gpu():
    return emulated_gpu(emulated_kernels())


def module_of(layer, gpu, step_index=0) -> PackedModule:
    index = torch.tensor([step_index], dtype=torch.int32)
    return PackedModule(DeviceLayer.of("a.layer", layer, gpu.kernels), index)


def outputs(case, gpu, residual=None):
    """y of a layer case, from a non-contiguous x."""
    x = torch.from_numpy(case.x.copy())
    x = torch.stack([x, x], dim=-1)[..., 1]
    added = None if residual is None else torch.from_numpy(residual.copy())
    return module_of(case.layer, gpu, case.step_index)(x, added).numpy()


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_golden_cases_are_exact(gpu, case):
    assert_same_bits(outputs(case, gpu), case.y)


@pytest.mark.parametrize("index", range(24))
def test_random_cases_are_exact(gpu, index):
    case = random_case(index)
    assert_same_bits(outputs(case.case, gpu, case.residual), case.expected)


def test_the_step_is_read_when_it_runs(gpu):
    layer = random_layer(Draws(3), [3] * 9, 4, 40)
    x = Draws(4).bell((5, 40)).astype(np.float32)
    module = module_of(layer, gpu)
    for step in range(len(layer.act_scale)):
        module.step_index.fill_(step)
        assert_same_bits(module(torch.from_numpy(x)).numpy(), run_layer(layer, x, step).output)


@pytest.mark.parametrize("name", ["linear_3d", "conv_stride_uneven", "conv_float16"])
def test_torch_agrees_with_what_the_operator_says_of_itself(gpu, name):
    """Its fake implementation, no mutation and no aliases, also with sizes that are not known."""
    case = layer_case(name)
    module = module_of(case.layer, gpu, case.step_index)
    arguments = (torch.from_numpy(case.x.copy()), module.step_index, module.number)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(packed_layer, arguments, test_utils=tests)


def test_it_is_compiled_with_what_surrounds_it(gpu):
    """One graph without breaks; the step may change between calls."""
    conv = ConvGeometry((3, 3), pads=(1, 1, 1, 1))
    layers = [random_layer(Draws(seed), [3, 2] * 4, 4, 8, conv) for seed in (1, 2)]
    index = torch.zeros(1, dtype=torch.int32)
    model = torch.nn.Sequential(
        PackedModule(DeviceLayer.of("one", layers[0], gpu.kernels), index),
        torch.nn.SiLU(),
        PackedModule(DeviceLayer.of("two", layers[1], gpu.kernels), index),
    )
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.from_numpy(Draws(5).bell((2, 8, 5, 4)).astype(np.float32))
    for step in (0, 2):
        index.fill_(step)
        assert_same_bits(compiled(x).numpy(), model(x).numpy())


def test_an_empty_batch_has_an_empty_output(gpu):
    layer = random_layer(Draws(3), [3] * 9, 4, 40)
    assert module_of(layer, gpu)(torch.zeros(0, 40)).shape == (0, 9)


def test_a_layer_goes_with_its_module(gpu):
    module = module_of(random_layer(Draws(3), [3] * 9, 4, 40), gpu)
    number = module.number
    assert number in operator._layers
    del module
    gc.collect()
    assert number not in operator._layers


@pytest.mark.parametrize(
    ("x", "residual"),
    [
        (torch.zeros(2, 41), None),
        (torch.zeros(2, 40, dtype=torch.bfloat16), None),
        (torch.zeros(2, 40), torch.zeros(2, 40)),
        (torch.zeros(2, 40), torch.zeros(2, 9, dtype=torch.float16)),
    ],
)
def test_other_tensors_are_refused_with_the_layers_name(gpu, x, residual):
    module = module_of(random_layer(Draws(3), [3] * 9, 4, 40), gpu)
    with pytest.raises(TypeError, match=r"a\.layer"):
        module(x, residual)


def test_what_the_kernels_refuse_names_the_layer(gpu):
    """More padding than a workspace may hold."""
    conv = ConvGeometry((1, 1), pads=(4096, 4096, 4096, 4096))
    layer = random_layer(Draws(3), [3] * 4, 4, 600, conv)
    with pytest.raises(LayerError, match=r"a\.layer, input 1 x 2 x 2"):
        module_of(layer, gpu)(torch.zeros(1, 600, 2, 2))
