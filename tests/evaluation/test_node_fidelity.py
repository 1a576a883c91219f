"""The check finds every node equal, and a fault in the node that has it."""

import fixtures
import numpy as np
import pytest
from onnx import numpy_helper

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.evaluation import node_fidelity
from mpq_export.evaluation.check import check_bundle
from mpq_export.evaluation.node_fidelity import compare_nodes
from mpq_export.lowering.graph import Graph
from mpq_export.runtimes.graph_feeds import graph_feeds
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import ONNX_RUNTIMES, runnable_graph


def feeds(bundle):
    rng = np.random.default_rng(0)
    return [
        graph_feeds(
            bundle.model_config,
            bundle.timesteps,
            rng.standard_normal((2, 2, 8, 8), dtype=np.float32),
            float(timestep),
            {"class_labels": np.array([0, 3])},
        )
        for timestep in bundle.timesteps
    ]


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_every_node_of_every_graph_equals_the_reference(lowered_folder, runtime):
    bundle = read_bundle(lowered_folder)
    results = list(compare_nodes(bundle, runtime, feeds(bundle)))
    assert [result.name for result in results] == list(bundle.layers)
    assert all(result.equal for result in results)
    assert all(result.largest_difference == 0 for result in results)


@pytest.mark.parametrize("layer", ["conv_in", "mid_block.attentions.0.to_q", "conv_out"])
@pytest.mark.parametrize(
    ("runtime", "weights"), [(Runtime.ORT_PORTABLE, "weight"), (Runtime.ORT_FUNCTIONS, "planes")]
)
def test_a_changed_weight_is_found_in_its_node(
    lowered_folder, monkeypatch, layer, runtime, weights
):
    """One bit of one weight; every other node must still be equal on its own inputs."""

    def broken(bundle, runtime):
        model = runnable_graph(bundle, runtime).inline()
        (tensor,) = [t for t in model.graph.initializer if t.name == f"{layer}.{weights}"]
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] ^= 1
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return Graph.of(model)

    monkeypatch.setattr(node_fidelity, "runnable_graph", broken)
    bundle = read_bundle(lowered_folder)
    results = compare_nodes(bundle, runtime, feeds(bundle))
    assert [result.name for result in results if not result.equal] == [layer]


def test_layers_are_judged_against_full_precision_when_it_is_given(lowered_folder, pipeline_folder):
    bundle, checkpoint = read_bundle(lowered_folder), load_checkpoint(pipeline_folder)
    report = check_bundle(bundle, Runtime.ORT, checkpoint, 3, 2, 0, fixtures.SilentProgress())
    by_name = {node.name: node.output_snr_db for node in report.nodes}
    eight_bit = [by_name[name] for name in bundle.quantization.eight_bit]
    others = [snr for name, snr in by_name.items() if name not in bundle.quantization.eight_bit]
    assert report.passed
    assert np.median(eight_bit) > np.median(others) + 10
    assert report.worst(3)[0].output_snr_db == min(by_name.values())
    assert 0.01 < report.against_original.relative < 0.6
    assert report.against_torch.relative < 0.1


def test_lowered_models_of_another_bundle_are_refused(lowered_folder, monkeypatch):
    bundle = read_bundle(lowered_folder)

    def renamed(bundle, runtime):
        graph = runnable_graph(bundle, runtime)
        for node in graph.model.graph.node:
            node.name = f"other.{node.name}"
        return graph

    monkeypatch.setattr(node_fidelity, "runnable_graph", renamed)
    with pytest.raises(node_fidelity.BundleError, match="has no node for layer conv_in"):
        list(compare_nodes(bundle, Runtime.ORT, feeds(bundle)))
