"""Layers of an engine matched to a bundle's modules, in a report's terms."""

from types import SimpleNamespace

import pytest

from mpq_export.bundle import read_bundle
from mpq_export.evaluation.bench.cost_kinds import Cost
from mpq_export.evaluation.bench.engine_profiling import measured_engine, measured_of
from mpq_export.evaluation.bench.measured_step import quantized_modules
from mpq_export.evaluation.bench.profile import GPU
from mpq_export.evaluation.bench.profiling import can_be_profiled, profile_of
from mpq_export.lowering.kernel_nodes import is_kernel_node
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import read_lowered
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt.engine_layers import EngineLayer
from mpq_export.runtimes.tensorrt.profiled import EngineProfile

FUSED, COPY = "__myl_MulAddSilu_myl0_1", "Reformatting CopyNode for Input Tensor 0 to {}"


@pytest.fixture(scope="module")
def bundle(lowered_folder):
    return read_bundle(lowered_folder)


@pytest.fixture(scope="module")
def nodes(bundle):
    return list(read_lowered(bundle.path, Target.TRT).model.graph.node)


@pytest.fixture
def profile(nodes):
    """An engine that runs every packed node as it is, and the rest in one, with one copy."""
    packed = [node.name for node in nodes if is_kernel_node(node)]
    others = tuple(node.name for node in nodes if not is_kernel_node(node))
    layers = [
        EngineLayer(
            name, "PluginV3", (name,), types=("float16", "int32"), elements=2 * 8 * 8 * 4,
        )
        for name in packed
    ]  # fmt: skip
    layers.append(EngineLayer(FUSED, "kgen", others, kernel="__myl_MulAddSilu_0xf"))
    copy = COPY.format(packed[0])
    layers.append(EngineLayer(copy, "Reformat", (packed[0],), copies=True))
    ms = {name: 0.5 for name in packed} | {FUSED: 4.0, copy: 0.25}
    slow = {name: 2 * value for name, value in ms.items()}
    whole = sum(ms.values())
    return EngineProfile(tuple(layers), (ms, slow, ms), (whole + 1, 5 * whole, whole + 3), "plugin")


def test_every_packed_layer_has_its_time(bundle, nodes, profile):
    found = profile_of(measured_of(profile, bundle, "TensorRT 10.3.0"), bundle)
    packed = [node.name for node in nodes if is_kernel_node(node)]
    assert {cost.layer for cost in found.layers} == quantized_modules(bundle).keys()
    assert sum(cost.ms for cost in found.layers) == pytest.approx(0.5 * len(packed) + 0.25)
    by_name = {cost.layer: cost for cost in found.layers}
    first = by_name[packed[0]]
    assert (first.copies, first.arithmetic, first.weights) == (1, "int8", "packed bit planes")
    assert first.operators == ["MPQLinear", "Reformat"]
    columns = bundle.layers[packed[0]].weight.columns
    assert first.macs == 2 * 8 * 8 * 4 * columns
    assert first.macs_per_ns == pytest.approx(first.macs / 0.5e6)  # the copy is not in the rate
    assert (found.device, found.kernels) == (GPU, "TensorRT 10.3.0")


def test_a_step_is_the_least_disturbed_one(bundle, profile):
    found = profile_of(measured_of(profile, bundle, ""), bundle)
    assert found.node_ms == pytest.approx(sum(profile.ms[0].values()))
    assert found.run_ms == pytest.approx(found.node_ms + 1)
    assert {cost.title for cost in found.costs} <= set(Cost)


def test_what_the_engine_made_one_of_is_named_by_what_the_model_had(bundle, nodes, profile):
    found = profile_of(measured_of(profile, bundle, ""), bundle)
    (fused,) = [one for one in found.operators if "+others" in one.operator]
    assert fused.ms == 4.0
    own = list(dict.fromkeys(node.op_type for node in nodes if not is_kernel_node(node)))
    assert fused.operator == "+".join([*own[:4], "others"])


def test_an_engine_that_holds_names_alone_is_said_to(bundle, profile):
    """Layers are matched by their names; what is joined by TensorRT to one as well."""
    packed = profile.layers[0].name
    bare = EngineProfile((), ({f"{packed} + node_add": 1.0},), (1.5,), "")
    found = profile_of(measured_of(bare, bundle, "TensorRT 10.3.0"), bundle)
    assert found.layers[0].layer == packed
    assert found.layers[0].ms == 1.0
    assert found.layers[0].macs is None
    assert "holds names alone" in found.kernels


def test_the_engine_is_opened_and_profiled_as_asked(bundle, profile):
    asked = {}

    def profiled(sample, timestep, warm_up, steps, **conditions):
        asked.update(sample=sample, steps=(warm_up, steps), conditions=conditions)
        return profile

    def opener(own, runtime):
        assert (own, runtime) == (bundle, Runtime.TRT_RTX)
        return SimpleNamespace(profiled=profiled)

    inputs = ("noise", 5.0, {"class_labels": "labels"})
    measured = measured_engine(bundle, Runtime.TRT_RTX, inputs, 3, 20, opener)
    assert asked == {
        "sample": "noise", "steps": (3, 20), "conditions": {"class_labels": "labels"},
    }  # fmt: skip
    assert measured.kernels == "TensorRT's; packed layers: plugin"


def test_which_rows_have_layers():
    def row(runtime):
        return SimpleNamespace(runtime=runtime)

    profiled = [None, Runtime.ORT, Runtime.ONNX, Runtime.TRT, Runtime.TRT_RTX]
    assert all(can_be_profiled(row(runtime)) for runtime in profiled)
    assert not can_be_profiled(row(Runtime.TORCH))
