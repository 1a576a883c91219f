"""The bias of predictions by step and channel, in every runtime."""

import shutil

import fixtures
import numpy as np
import pytest
import torch
from signed_changes import change_tensors

from mpq_export.architectures import architecture_of
from mpq_export.bundle import OUTPUT_BIAS, WEIGHTS, read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import BundleError
from mpq_export.export import export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.forecast.size import forecast_size
from mpq_export.lowering.names import Target
from mpq_export.methods import recipe_of
from mpq_export.methods.plan import plan_layers
from mpq_export.precision import BitSpec
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.names import Runtime


@pytest.fixture(scope="module")
def bundles(pipeline_folder, tmp_path_factory):
    """Corrected, and not; all else is the same."""
    folder = tmp_path_factory.mktemp("biases")

    def export(name, corrected):
        changes = {"calibration_images": 2, "bias_correction": corrected}
        recipe = recipe_of("rtn").model_copy(update=changes)
        targets = (Target.ORT, Target.ONNX)
        request = ExportRequest(
            BitSpec(3, 4), recipe, targets, fixtures.NUM_STEPS, 0, folder / name
        )
        checkpoint = load_checkpoint(pipeline_folder)
        return export_checkpoint(checkpoint, request, fixtures.SilentProgress())

    return export("corrected", True), export("plain", False)


@pytest.mark.parametrize(
    "runtime", [Runtime.ORT, Runtime.ORT_PORTABLE, Runtime.ONNX, Runtime.TORCH]
)
def test_it_is_added_by_step_and_channel(bundles, runtime):
    corrected, plain = bundles
    assert read_bundle(corrected.path).output_bias.shape == (fixtures.NUM_STEPS, 2)
    one, other = (open_denoiser(bundle, runtime) for bundle in bundles)
    sample = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    labels = np.array([0, 1, 2])
    if runtime is Runtime.TORCH:
        sample, labels = torch.from_numpy(sample), torch.from_numpy(labels)
    for step, timestep in enumerate(plain.timesteps):
        added = one(sample, float(timestep), class_labels=labels)
        added = added - other(sample, float(timestep), class_labels=labels)
        wanted = np.broadcast_to(corrected.output_bias[step][:, None, None], sample.shape)
        np.testing.assert_allclose(np.asarray(added), wanted, atol=2e-6)


def test_its_bytes_are_forecast(bundles, pipeline_folder):
    corrected, plain = bundles
    checkpoint, recipe = load_checkpoint(pipeline_folder), recipe_of("rtn")
    architecture = architecture_of(checkpoint.model_config)
    plan = plan_layers(checkpoint.model, architecture, BitSpec(3, 4), recipe)
    for bundle, channels in ((corrected, 2), (plain, None)):
        size = forecast_size(checkpoint.model, plan, fixtures.NUM_STEPS, bias_channels=channels)
        assert size.packed_bytes == (bundle.path / WEIGHTS).stat().st_size


def test_that_of_another_models_channels_is_refused(bundles, tmp_path):
    corrected, _ = bundles
    for number, wrong in enumerate(
        (corrected.output_bias[:, :1], np.repeat(corrected.output_bias, 2, axis=1))
    ):
        folder = shutil.copytree(corrected.path, tmp_path / str(number))

        def edit(tensors, wrong=wrong):
            tensors[OUTPUT_BIAS] = wrong

        change_tensors(folder, edit)
        with pytest.raises(BundleError, match="one for each channel of a prediction"):
            read_bundle(folder)
