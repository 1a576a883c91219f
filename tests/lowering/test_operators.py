"""All operators together: whole models before and after they are fused, and nodes that lie."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from onnx import helper
from plugins.onnxruntime.sessions import require_library

from mpq_export.architectures import architecture_of
from mpq_export.core.planes import ContractError
from mpq_export.lowering.attention_nodes import ATTENTION
from mpq_export.lowering.gelu_fusion import fuse_gelus
from mpq_export.lowering.gelu_nodes import GEGLU, GELU
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.layer_norm_fusion import fuse_layer_norms
from mpq_export.lowering.layer_norm_nodes import ADA_LAYER_NORM
from mpq_export.lowering.nodes import CONV, DOMAIN, LINEAR
from mpq_export.lowering.norm_fusion import fuse_group_norms
from mpq_export.lowering.norm_nodes import GROUP_NORM, GROUP_NORM_SILU
from mpq_export.lowering.operators import all_bodies, require_allowed
from mpq_export.lowering.tracing import named_conditions, trace
from mpq_export.prediction import predict
from mpq_export.runtimes.onnxruntime_denoiser import make_session

OPERATORS = [
    LINEAR,
    CONV,
    LINEAR,
    CONV,
    GROUP_NORM,
    GROUP_NORM_SILU,
    ATTENTION,
    GELU,
    GEGLU,
    ADA_LAYER_NORM,
]


def test_every_operator_has_a_body():
    assert sorted(body.name for body in all_bodies()) == sorted(OPERATORS)


@pytest.mark.parametrize("op_type", OPERATORS)
def test_an_attribute_of_no_operator_is_refused(op_type):
    node = helper.make_node(op_type, ["X"], ["Y"], name="node", domain=DOMAIN, unheard_of=1)
    with pytest.raises(ContractError, match=r"^node node"):
        require_allowed(node)
    require_allowed(helper.make_node("Relu", ["X"], ["Y"], name="node", unheard_of=1))


def test_an_operator_that_is_none_of_the_domain_is_refused():
    with pytest.raises(ContractError, match="node node: there is no operator MPQRelu"):
        require_allowed(helper.make_node("MPQRelu", ["X"], ["Y"], name="node", domain=DOMAIN))


def text_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=(8,), norm_num_groups=4, attention_head_dim=4, mid_block_type=None,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=12,
    )  # fmt: skip


def dit() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=1, patch_size=2,
        num_attention_heads=2, attention_head_dim=12, num_embeds_ada_norm=10,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "expected", "gone"),
    [
        (text_unet, {GEGLU: 3, GROUP_NORM_SILU: 7, "LayerNormalization": 9}, {"Gelu", "Split"}),
        (dit, {GELU: 1, ADA_LAYER_NORM: 3}, {"Gelu", "LayerNormalization"}),
    ],
    ids=["text UNet", "DiT"],
)
def test_a_fused_model_computes_what_it_did(make, expected, gone):
    """In floating point: quantised layers would make percents of the last bits."""
    require_library()
    torch.manual_seed(0)
    whole = make()
    config = {**whole.config, "_class_name": type(whole).__name__}
    specs = architecture_of(config).conditions(config)

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = whole

        def forward(self, sample, timestep, *conditions):
            named = named_conditions(specs, sample, conditions)
            return predict(self.model, config, sample, timestep, named)

    program = trace(Traced().eval(), config, {"timestep": torch.zeros(1)}, where="the model")
    traced = Graph.of(program.model_proto)
    fused = fuse_layer_norms(fuse_gelus(fuse_group_norms(traced)))
    counts = Counter(node.op_type for node in fused.model.graph.node)
    assert {op_type: counts[op_type] for op_type in expected} == expected
    assert gone.isdisjoint(counts)
    before = {node.SerializeToString() for node in traced.model.graph.node}
    others = (node for node in fused.model.graph.node if node.domain != DOMAIN)
    assert before.issuperset(node.SerializeToString() for node in others)

    rng = np.random.default_rng(0)
    sample_shape = architecture_of(config).sample_shape(config)
    feeds = {
        "sample": rng.standard_normal((3, *sample_shape)).astype(np.float32),
        "timestep": np.array([20], np.float32),
        **{spec.name: spec.draw(3, rng) for spec in specs},
    }
    with torch.no_grad():
        conditions = [torch.from_numpy(feeds[spec.name]) for spec in specs]
        inputs = torch.from_numpy(feeds["sample"]), torch.from_numpy(feeds["timestep"])
        eager = Traced().eval()(*inputs, *conditions).numpy()
    results = [make_session(fused).run(None, feeds)[0]]
    fused.model.functions.extend(all_bodies())
    results.append(make_session(fused).run(None, feeds)[0])
    for result in results:
        np.testing.assert_allclose(result, eager, rtol=0, atol=1e-5 * np.abs(eager).max())
