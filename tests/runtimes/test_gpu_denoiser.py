"""Whole models through the GPU runtime, on the emulated kernels."""

from __future__ import annotations

from dataclasses import replace

import fixtures
import pytest
import torch
from mpq_export.pipelines.registry import DrawRequest
from plugins.kernels.emulated import emulated_kernels
from plugins.kernels.fake_driver import DriverGpu
from steps import step_of
from test_replayed import Recorder

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import RuntimeUnavailable
from mpq_export.evaluation.check import check_bundle
from mpq_export.evaluation.module_fidelity import compare_modules
from mpq_export.runtimes import gpu_denoiser
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.gpu_denoiser import GpuDenoiser
from mpq_export.runtimes.gpu_kernels import torch_gpu
from mpq_export.runtimes.gpu_kernels.library_file import LIBRARY_VARIABLE
from mpq_export.runtimes.gpu_kernels.operator import PackedModule
from mpq_export.runtimes.gpu_kernels.torch_gpu import emulated_gpu
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.selection import select
from mpq_export.runtimes.torch_denoiser import TorchDenoiser
from mpq_export.sampling import draw_images


def tiny_dit():
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(fixtures.SEED)
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=2, out_channels=4, num_layers=2,
        patch_size=2, sample_size=8, num_embeds_ada_norm=fixtures.NUM_CLASSES,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def gpu():
    return emulated_gpu(emulated_kernels())


@pytest.fixture(scope="module")
def dit_folder(tmp_path_factory):
    from diffusers import DDIMScheduler

    folder = tmp_path_factory.mktemp("tiny-dit")
    tiny_dit().save_pretrained(folder / "model")
    DDIMScheduler(timestep_spacing="trailing").save_pretrained(folder / "model" / "scheduler")
    return fixtures.quantized_bundle(folder / "model", folder / "bundle")


@pytest.fixture(params=["unet", "dit"])
def bundle(request):
    name = "bundle_folder" if request.param == "unet" else "dit_folder"
    return read_bundle(request.getfixturevalue(name))


@pytest.mark.parametrize("recorder", [None, Recorder()], ids=["by itself", "recorded"])
def test_in_float32_it_is_the_reference_to_the_last_bit(bundle, gpu, recorder):
    """The packed layers' outputs are equal, and everything else is torch's in both."""
    reference = TorchDenoiser(bundle)
    denoiser = GpuDenoiser(bundle, gpu, recorder, torch.float32)
    for batch, timestep in ((2, 666), (1, 20), (2, 333)):
        found = step_of(denoiser, batch, timestep)
        assert torch.equal(found, step_of(reference, batch, timestep))


def test_kernels_that_the_driver_launches_give_the_same_model(bundle, gpu):
    """And it says where they come from."""
    library = DriverGpu.of(emulated_kernels()).device.library
    driven = replace(gpu, kernels=replace(gpu.kernels, library=library))
    denoiser = GpuDenoiser(bundle, driven, Recorder())
    assert torch.equal(step_of(denoiser), step_of(GpuDenoiser(bundle, gpu, None)))
    assert denoiser.selection.note == "GPU kernels for tests, CUDA graphs"


def test_in_float16_every_layer_is_exact(bundle, gpu):
    """Every packed layer of two steps against numpy, on the inputs that it really had."""
    denoiser = GpuDenoiser(bundle, gpu, None)
    kinds = set()

    def run():
        for timestep in bundle.timesteps[:2]:
            step_of(denoiser, timestep=timestep)

    for module in denoiser.model.modules():
        if isinstance(module, PackedModule):
            module.register_forward_hook(
                lambda _module, inputs, y: kinds.add((inputs[0].dtype, y.dtype))
            )
    results = list(compare_modules(denoiser.model, bundle.layers, run))
    assert [result.name for result in results] == list(bundle.layers)
    assert all(result.equal and not result.not_finite for result in results)
    assert kinds == {(torch.float16, torch.float16)}
    # Roundings flip; an unrelated prediction would be 1.4 away.
    found, reference = step_of(denoiser), step_of(TorchDenoiser(bundle))
    assert found.dtype == torch.float32
    assert torch.linalg.norm(found - reference) < 0.6 * torch.linalg.norm(reference)


def test_a_layer_that_is_not_exact_is_named(bundle_folder, gpu):
    """One bias is changed after the model was opened."""
    bundle = read_bundle(bundle_folder)
    denoiser = GpuDenoiser(bundle, gpu, None)
    name = "mid_block.resnets.0.conv1"
    layer = bundle.layers[name]
    layers = {**bundle.layers, name: replace(layer, bias=layer.bias + 1)}
    results = compare_modules(denoiser.model, layers, lambda: step_of(denoiser))
    assert [result.name for result in results if not result.equal] == [name]


def test_nothing_else_is_left_in_float32(bundle, gpu):
    model = GpuDenoiser(bundle, gpu, None).model
    kinds = {value.dtype for value in (*model.parameters(), *model.buffers())}
    assert kinds <= {torch.float16, torch.int32, torch.int64}
    packed = [module for module in model.modules() if isinstance(module, PackedModule)]
    assert len(packed) == len(bundle.layers)


def test_what_runs_is_said(bundle_folder, gpu):
    bundle = read_bundle(bundle_folder)
    graphs = GpuDenoiser(bundle, gpu, Recorder())
    step_of(graphs)
    assert str(graphs.selection) == "torch (GPU kernels for the processor, CUDA graphs)"
    failing = GpuDenoiser(bundle, gpu, Recorder("stream is capturing"), torch.float32)
    assert torch.equal(step_of(failing), step_of(TorchDenoiser(bundle)))
    assert failing.selection.note.endswith(
        "operator by operator: no CUDA graph, stream is capturing"
    )
    assert "operator by operator" in GpuDenoiser(bundle, gpu, None).selection.note


# --- which of them is opened --------------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch):
    """A torch that has a GPU, whose kernels must be found."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)


def _refuse():
    raise RuntimeUnavailable("No kernels", why="nvcc was not found")


def test_without_a_gpu_the_reference_runs_and_says_why(bundle_folder, monkeypatch):
    bundle = read_bundle(bundle_folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for version, why in (("13.0", "finds no GPU"), (None, "built without CUDA")):
        monkeypatch.setattr(torch.version, "cuda", version)
        denoiser = open_denoiser(bundle, Runtime.TORCH)
        assert isinstance(denoiser, TorchDenoiser)
        assert "integer reference on the processor" in denoiser.selection.note
        assert why in denoiser.selection.note


@pytest.mark.usefixtures("cuda")
def test_without_kernels_the_reference_runs_and_says_why(bundle_folder, monkeypatch):
    monkeypatch.setattr(torch_gpu, "current_gpu", _refuse)
    denoiser = open_denoiser(read_bundle(bundle_folder), Runtime.TORCH)
    assert isinstance(denoiser, TorchDenoiser)
    assert denoiser.selection.note.endswith("on the processor: nvcc was not found")


@pytest.mark.usefixtures("cuda")
def test_a_gpu_that_does_not_start_is_no_traceback(bundle_folder, monkeypatch):
    """Torch counts GPUs without starting CUDA."""

    def broken():
        raise RuntimeError("CUDA unknown error - this may be due to ...\nmore")

    monkeypatch.setattr(torch.cuda, "current_device", broken)
    with pytest.raises(RuntimeUnavailable, match=r"GPU cannot be used.*CUDA unknown error.*smi"):
        torch_gpu.described_gpu()
    denoiser = open_denoiser(read_bundle(bundle_folder), Runtime.TORCH)
    assert isinstance(denoiser, TorchDenoiser)
    assert "CUDA does not start: CUDA unknown error" in denoiser.selection.note


@pytest.mark.usefixtures("cuda")
def test_a_library_that_was_named_is_not_passed_over(bundle_folder, monkeypatch):
    monkeypatch.setattr(torch_gpu, "current_gpu", _refuse)
    monkeypatch.setenv(LIBRARY_VARIABLE, "/nowhere.so")
    with pytest.raises(RuntimeUnavailable, match="nvcc was not found"):
        open_denoiser(read_bundle(bundle_folder), Runtime.TORCH)


@pytest.fixture
def emulated_cuda(cuda, gpu, monkeypatch):
    """A torch whose GPU is the emulated one."""
    monkeypatch.setattr(torch_gpu, "current_gpu", lambda: gpu)
    monkeypatch.setattr(gpu_denoiser, "CudaGraphs", lambda _device: Recorder())


@pytest.mark.usefixtures("emulated_cuda")
def test_with_a_gpu_the_kernels_run(bundle_folder):
    denoiser = open_denoiser(read_bundle(bundle_folder), Runtime.TORCH)
    assert isinstance(denoiser, GpuDenoiser)
    assert torch.isfinite(step_of(denoiser)).all()
    assert select(Runtime.TORCH).note == "GPU kernels for the processor"


@pytest.mark.usefixtures("emulated_cuda")
def test_images_are_drawn_and_what_drew_them_is_said(bundle_folder):
    said = []
    images = draw_images(
        read_bundle(bundle_folder), Runtime.TORCH, DrawRequest(2, 3, 0), fixtures.SilentProgress(),
        said.append,
    )  # fmt: skip
    assert images.shape == (2, 2, 8, 8)
    (selection,) = map(str, said)
    assert selection == "torch (GPU kernels for the processor, CUDA graphs)"


@pytest.mark.usefixtures("emulated_cuda")
def test_the_layers_on_the_gpu_are_checked(bundle_folder, pipeline_folder):
    report = check_bundle(
        read_bundle(bundle_folder), Runtime.TORCH, load_checkpoint(pipeline_folder), 2, 1, 0,
        fixtures.SilentProgress(),
    )  # fmt: skip
    assert report.passed
    assert len(report.nodes) == len(read_bundle(bundle_folder).layers)
    assert all(node.output_snr_db is not None for node in report.nodes)
    assert 0 < report.against_torch.relative < 0.6


def test_without_a_gpu_there_is_nothing_to_check(bundle_folder):
    with pytest.raises(RuntimeUnavailable, match="reference itself here"):
        check_bundle(
            read_bundle(bundle_folder), Runtime.TORCH, None, 1, 1, 0, fixtures.SilentProgress()
        )
