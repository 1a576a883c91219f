"""What only a GPU can show: the operator in CUDA graphs and under the compiler, see ``gpu-check``.

Single kernels are tried by ``plugins.kernels.exactness``.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from golden.reader import layer_cases
from plugins.kernels.cases import assert_same_bits, random_case
from steps import step_of

from mpq_export.bundle import read_bundle
from mpq_export.errors import RuntimeUnavailable
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.gpu_denoiser import GpuDenoiser
from mpq_export.runtimes.gpu_kernels.choice import nvrtc_kernels
from mpq_export.runtimes.gpu_kernels.device import DeviceLayer
from mpq_export.runtimes.gpu_kernels.operator import PackedModule
from mpq_export.runtimes.gpu_kernels.torch_gpu import current_gpu
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.replayed import CudaGraphs
from mpq_export.runtimes.torch_denoiser import TorchDenoiser

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.fixture(scope="module")
def gpu():
    return current_gpu()


def module_of(layer, gpu, step_index=0) -> PackedModule:
    index = torch.tensor([step_index], dtype=torch.int32, device=gpu.device)
    return PackedModule(DeviceLayer.of("layer", layer, gpu.kernels), index)


def test_golden_cases_are_exact(gpu):
    for case in layer_cases():
        x = torch.from_numpy(case.x.copy()).to(gpu.device)
        assert_same_bits(module_of(case.layer, gpu, case.step_index)(x).cpu().numpy(), case.y)


def test_code_of_nvrtcs_is_exact_and_can_be_recorded(gpu):
    """As on machines without nvcc."""
    try:
        driven = current_gpu(nvrtc_kernels)
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    assert driven.kernels.library.origin.startswith("compiled by NVRTC")
    for case in layer_cases():
        x = torch.from_numpy(case.x.copy()).to(gpu.device)
        call = partial(module_of(case.layer, driven, case.step_index), x)
        assert_same_bits(call().cpu().numpy(), case.y)
        graphs = CudaGraphs(gpu.device)
        graphs.warm_up(call)
        recording = graphs.record(call)
        recording.output.fill_(float("nan"))
        recording.replay()
        assert_same_bits(recording.output.cpu().numpy(), case.y)


def test_recorded_layers_read_new_inputs_and_steps(gpu):
    """A graph each, replayed on other values than it was captured with."""
    for index in range(12):
        drawn = random_case(index)
        case, residual = drawn.case, drawn.residual
        module, values = module_of(case.layer, gpu), torch.from_numpy(case.x.copy())
        x = torch.zeros_like(values, device=gpu.device)
        added = None if residual is None else torch.from_numpy(residual.copy()).to(gpu.device)
        call = partial(module, x, added)
        graphs = CudaGraphs(gpu.device)
        graphs.warm_up(call)
        recording = graphs.record(call)
        x.copy_(values)
        module.step_index.fill_(case.step_index)
        for _ in range(2):
            recording.replay()
            assert_same_bits(recording.output.cpu().numpy(), drawn.expected)


def test_layers_on_two_streams_do_not_disturb_each_other(gpu):
    """Workspaces come from torch's allocator, which knows of streams."""
    cases = [random_case(index).case for index in (2, 3)]
    modules = [module_of(case.layer, gpu, case.step_index) for case in cases]
    inputs = [torch.from_numpy(case.x.copy()).to(gpu.device) for case in cases]
    streams = [torch.cuda.Stream(gpu.device) for _ in cases]
    torch.cuda.synchronize()
    outputs: list[list[torch.Tensor]] = [[], []]
    for _ in range(20):
        for out, module, x, stream in zip(outputs, modules, inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                out.append(module(x))
    torch.cuda.synchronize()
    for out, case in zip(outputs, cases, strict=True):
        for y in out:
            assert_same_bits(y.cpu().numpy(), case.y)


def test_steps_in_graphs_equal_steps_by_themselves(gpu, bundle_folder):
    """In float32 as in float16, for several shapes in turn that share the graphs' memory."""
    bundle = read_bundle(bundle_folder)
    for dtype in (torch.float16, torch.float32):
        recorded = GpuDenoiser(bundle, gpu, CudaGraphs(gpu.device), dtype)
        plain = GpuDenoiser(bundle, gpu, None, dtype)
        for batch, timestep in ((2, 666), (1, 20), (2, 333), (1, 666), (2, 666)):
            found = step_of(recorded, batch, timestep)
            assert torch.equal(found, step_of(plain, batch, timestep))
        assert recorded.selection.note.endswith(", CUDA graphs")


def test_the_runtime_takes_the_gpu_and_predicts_as_the_reference(bundle_folder):
    bundle = read_bundle(bundle_folder)
    denoiser = open_denoiser(bundle, Runtime.TORCH)
    assert isinstance(denoiser, GpuDenoiser)
    found, expected = step_of(denoiser), step_of(TorchDenoiser(bundle))
    assert torch.linalg.norm(found - expected) < 0.6 * torch.linalg.norm(expected)


def test_a_whole_model_is_compiled_by_inductor(gpu, bundle_folder):
    """The compiler fuses what lies between packed layers, and rounds it otherwise."""
    bundle = read_bundle(bundle_folder)
    expected = step_of(GpuDenoiser(bundle, gpu, None))
    compiled = GpuDenoiser(bundle, gpu, CudaGraphs(gpu.device))
    compiled.model.compile()
    found = step_of(compiled)
    assert compiled.selection.note.endswith(", CUDA graphs")
    assert torch.linalg.norm(found - expected) < 0.6 * torch.linalg.norm(expected)
