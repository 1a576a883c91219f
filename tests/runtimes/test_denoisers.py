"""All runtimes of one bundle predict the same."""

import fixtures
import numpy as np
import pytest
import torch

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import BundleError
from mpq_export.lowering.graph_inputs import SAMPLE, STEP_INDEX
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.graph_feeds import graph_feeds
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import (
    ONNX_RUNTIMES,
    make_session,
    runnable_graph,
)


def predict(bundle, runtime, batch, timestep, seed=0):
    """A prediction as numpy for noise that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, 2, 8, 8, generator=generator)
    labels = torch.arange(batch) % fixtures.NUM_CLASSES
    denoiser = open_denoiser(bundle, runtime)
    if denoiser.array_type is np.ndarray:
        return denoiser(sample.numpy(), timestep, class_labels=labels.numpy())
    return denoiser(sample, timestep, class_labels=labels).numpy()


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
@pytest.mark.parametrize("batch", [1, 3])
def test_runtimes_agree_with_the_torch_reference(lowered_folder, runtime, batch):
    """Float operations between the nodes may round differently, so not to the last bit."""
    bundle = read_bundle(lowered_folder)
    reference = predict(bundle, Runtime.TORCH, batch, 666)
    prediction = predict(bundle, runtime, batch, 666)
    assert prediction.shape == reference.shape == (batch, 2, 8, 8)
    assert np.linalg.norm(prediction - reference) < 0.1 * np.linalg.norm(reference)


def test_predictions_resemble_full_precision(lowered_folder, pipeline_folder):
    """W3A4 without training, on random weights: an unrelated prediction would be 1.4 away."""
    model = load_checkpoint(pipeline_folder).model
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(3, 2, 8, 8, generator=generator)
    full = model(sample, 666, class_labels=torch.arange(3)).sample.numpy()
    quantized = predict(read_bundle(lowered_folder), Runtime.ORT, 3, 666)
    assert np.linalg.norm(quantized - full) < 0.75 * np.linalg.norm(full)


def test_conditions_and_timesteps_reach_the_model(lowered_folder):
    bundle = read_bundle(lowered_folder)
    denoiser = open_denoiser(bundle, Runtime.ORT)
    sample = np.ones((1, 2, 8, 8), np.float32)
    label = np.array([1])
    first = denoiser(sample, 666, class_labels=label)
    assert not np.array_equal(first, denoiser(sample, 666, class_labels=label + 1))
    assert not np.array_equal(first, denoiser(sample, 20, class_labels=label))


def test_timesteps_between_table_entries_take_the_nearest(lowered_folder):
    bundle = read_bundle(lowered_folder)
    table = bundle.timesteps.tolist()
    for timestep, index in ((table[0], 0), (table[1] + 5, 1), (0, 2)):
        sample, labels = np.zeros((1, 2, 8, 8), np.float32), np.zeros(1, np.int64)
        feeds = graph_feeds(
            bundle.model_config, bundle.timesteps, sample, timestep, {"class_labels": labels}
        )
        assert feeds[STEP_INDEX].tolist() == [index]
        assert feeds[SAMPLE].dtype == np.float32


@pytest.mark.parametrize("label", [-1, fixtures.NUM_CLASSES])
@pytest.mark.parametrize("runtime", [Runtime.ORT, Runtime.TORCH])
def test_labels_that_the_model_does_not_have_are_refused(lowered_folder, runtime, label):
    """Not the last label for -1, as ONNX counts."""
    denoiser = open_denoiser(read_bundle(lowered_folder), runtime)
    array = np.asarray if denoiser.array_type is np.ndarray else torch.from_numpy
    sample = np.zeros((2, 2, 8, 8), np.float32)
    with pytest.raises(IndexError):
        denoiser(array(sample), 666, class_labels=array(np.array([0, label])))


def test_the_rewritten_graph_has_no_packed_nodes_left(lowered_folder):
    bundle = read_bundle(lowered_folder)
    graph = runnable_graph(bundle, Runtime.ORT_PORTABLE)
    assert not graph.model.functions
    assert {node.domain for node in graph.model.graph.node} == {"", "com.microsoft"}
    assert make_session(graph).get_inputs()[0].shape[0] == "batch"


def test_a_target_that_was_not_lowered_says_how_to(bundle_folder):
    with pytest.raises(BundleError, match="--target ort"):
        open_denoiser(read_bundle(bundle_folder), Runtime.ORT)
