"""Torch operators as the tracer writes them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from torch import nn

from mpq_export.lowering.nodes import OPSET
from mpq_export.lowering.translations import corrected_translations


class _WithoutScale(nn.Module):
    """As the adaptive normalisations of diffusers call it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise without scale and bias."""
        return nn.functional.group_norm(x, 2, eps=1e-6)


def test_group_normalisation_is_one_operator_and_needs_no_scale():
    x = torch.randn(2, 4, 3, 3)
    program = torch.onnx.export(
        _WithoutScale().eval(),
        (x,),
        opset_version=OPSET,
        dynamo=True,
        custom_translation_table=corrected_translations(),
        verbose=False,
    )
    model = program.model_proto
    assert "GroupNormalization" in {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    y = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(y, _WithoutScale()(x).numpy(), atol=1e-6)
