"""Cached temporal features in every runtime and target: the same values, and no layers for them."""

import shutil
from pathlib import Path

import fixtures
import numpy as np
import onnx
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.numpy import load, save

from mpq_export.bundle import CORE_FILES, WEIGHTS, Bundle, read_bundle
from mpq_export.bundle_features import FEATURE_TENSORS
from mpq_export.errors import BundleError
from mpq_export.evaluation.check import check_bundle
from mpq_export.files import write_manifest
from mpq_export.lowering.graph_inputs import FEATURES, STEP_INDEX, TIMESTEP
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import MODEL, read_lowered
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.graph_feeds import graph_feeds
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import ONNX_RUNTIMES, make_session, runnable_graph

SAMPLE = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
LABELS = np.array([0, 2, 3])


def predict(bundle: Bundle, runtime: Runtime, timestep: float, labels=LABELS):
    denoiser = open_denoiser(bundle, runtime)
    conditions = {"class_labels": labels} if labels is not None else {}
    if denoiser.array_type is np.ndarray:
        return denoiser(SAMPLE, timestep, **conditions)
    given = {name: torch.from_numpy(value) for name, value in conditions.items()}
    return denoiser(torch.from_numpy(SAMPLE), timestep, **given).numpy()


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_runtimes_predict_as_the_torch_reference(cached_folder: Path, runtime: Runtime) -> None:
    bundle = read_bundle(cached_folder)
    reference = predict(bundle, Runtime.TORCH, 666)
    prediction = predict(bundle, runtime, 666)
    assert np.linalg.norm(prediction - reference) < 0.02 * np.linalg.norm(reference)


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_every_runtime_reads_the_values_of_the_table(cached_folder: Path, runtime: Runtime) -> None:
    """The graph's own sum of scaled codes and offsets, bit for bit."""
    bundle = read_bundle(cached_folder)
    graph = runnable_graph(bundle, runtime)
    (sums,) = (
        node.output[0] for node in graph.model.graph.node if f"{FEATURES}.offset" in node.input
    )
    graph.model.graph.output.append(onnx.ValueInfoProto(name=sums))
    session = make_session(graph)
    for step in range(fixtures.NUM_STEPS):
        feeds = graph_feeds(
            bundle.model_config, bundle.timesteps, SAMPLE, float(bundle.timesteps[step]),
            {"class_labels": LABELS},
        )  # fmt: skip
        (found,) = session.run([sums], feeds)
        np.testing.assert_array_equal(found, bundle.features.values(step)[LABELS])


def test_every_node_equals_the_reference(cached_folder: Path) -> None:
    report = check_bundle(
        read_bundle(cached_folder), Runtime.ORT, None, 3, 2, 0, fixtures.SilentProgress()
    )
    assert report.passed
    assert len(report.nodes) == 41


@pytest.mark.parametrize("target", Target)
def test_the_layers_are_gone_from_every_target(cached_folder: Path, target: Target) -> None:
    graph = read_lowered(cached_folder, target)
    names = [*graph.values(), *(node.name for node in graph.model.graph.node)]
    for gone in ("time_emb_proj", "time_embedding", "class_embedding"):
        assert not any(gone in name for name in names)
    inputs = [value.name for value in graph.model.graph.input]
    assert inputs == ["sample", TIMESTEP, STEP_INDEX, "class_labels"]
    assert not any(TIMESTEP in node.input for node in graph.model.graph.node)


@pytest.mark.parametrize("target", [Target.TRT, Target.TRT_INT8])
def test_tensorrt_is_given_the_codes_in_float16(cached_folder: Path, target: Target) -> None:
    values = read_lowered(cached_folder, target).values()
    codes = read_bundle(cached_folder).features.codes
    assert values[f"{FEATURES}.codes"].dtype == np.float16
    assert np.array_equal(values[f"{FEATURES}.codes"], codes)


def test_between_entries_the_nearest_features_are_taken(cached_folder: Path) -> None:
    """As activation tables do: nothing else of the model knows the timestep."""
    bundle = read_bundle(cached_folder)
    first, second, _ = bundle.timesteps.tolist()
    for runtime in (Runtime.TORCH, Runtime.ORT):
        at_entry = predict(bundle, runtime, second)
        assert np.array_equal(predict(bundle, runtime, second + 40.5), at_entry)
        assert not np.array_equal(predict(bundle, runtime, first), at_entry)


def test_labels_decide(cached_folder: Path) -> None:
    bundle = read_bundle(cached_folder)
    for runtime in (Runtime.TORCH, Runtime.ORT):
        found = predict(bundle, runtime, 666, np.array([1, 1, 3]))
        expected = predict(bundle, runtime, 666, LABELS)
        assert np.array_equal(found[2], expected[2])
        assert not np.array_equal(found[0], expected[0])


def test_a_label_beyond_the_table_does_not_reach_the_next_step(cached_folder: Path) -> None:
    bundle = read_bundle(cached_folder)
    with pytest.raises(IndexError):
        predict(bundle, Runtime.TORCH, 666, np.array([0, 1, 4]))
    with pytest.raises(IndexError):
        predict(bundle, Runtime.ORT, 666, np.array([0, 1, 4]))


def test_a_graph_of_another_table_is_refused(cached_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cached_folder, tmp_path / "bundle"))
    tensors = {k: v.copy() for k, v in load((folder / WEIGHTS).read_bytes()).items()}
    tensors[FEATURE_TENSORS["offset"]][0] += 1
    (folder / WEIGHTS).write_bytes(save(tensors))
    write_manifest(folder, CORE_FILES)
    with pytest.raises(BundleError, match=r"features\.offset is not the bundle's"):
        open_denoiser(read_bundle(folder), Runtime.ORT)


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without labels: the timestep alone decides its features."""
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=8, in_channels=2, out_channels=2, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).eval()  # fmt: skip
    folder = tmp_path_factory.mktemp("plain")
    pipeline = fixtures.save_pipeline(folder / "pipeline", model)
    return fixtures.cached_bundle(pipeline, folder / "bundle")


@pytest.mark.parametrize("runtime", [Runtime.ORT, Runtime.ORT_PORTABLE, Runtime.ONNX])
def test_features_of_the_timestep_alone_serve_all_images(
    plain_folder: Path, runtime: Runtime
) -> None:
    bundle = read_bundle(plain_folder)
    assert bundle.features.codes.shape[:2] == (3, 1)
    reference = predict(bundle, Runtime.TORCH, 333, None)
    prediction = predict(bundle, runtime, 333, None)
    assert np.linalg.norm(prediction - reference) < 0.02 * np.linalg.norm(reference)


def test_they_are_still_added_inside_the_packed_nodes(plain_folder: Path) -> None:
    graph = onnx.load(plain_folder / "onnx" / Target.ORT.value / MODEL).graph
    added = [node.input[11] for node in graph.node if len(node.input) == 12]
    unsqueezed = {node.output[0] for node in graph.node if node.op_type == "Unsqueeze"}
    assert len(unsqueezed & set(added)) == 8
