"""What factors of input channels cost: nothing in a packed node, one product where standard
operators write it out. So folding them into the normalisation before saves that, and no more."""

from collections import Counter
from dataclasses import replace

import fixtures
import numpy as np
import pytest

from mpq_export.core.integer_reference import ConvGeometry, run_layer
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.portable import WeightType
from mpq_export.lowering.tensorrt_form import to_tensorrt_int8

from .models import packed_model, portable

LAYERS = {
    "linear": (fixtures.random_layer([3, 4, 3], 8, 4, factor=True), (5, 8)),
    "conv": (
        fixtures.random_layer([3, 4, 3], 8 * 9, 4, ConvGeometry((3, 3), pads=(1, 1, 1, 1)),
                              factor=True),
        (2, 8, 4, 4),
    ),
}  # fmt: skip


def without_factors(layer):
    return replace(layer, input_factor=np.ones_like(layer.input_factor))


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("layer", "dims"), LAYERS.values(), ids=LAYERS)
def test_a_packed_node_is_the_same_to_the_byte(layer, dims):
    own, plain = (packed_model(la, dims) for la in (layer, without_factors(layer)))
    assert operators(own) == operators(plain)
    assert operators(own).total() == 1
    assert own.ByteSize() == plain.ByteSize()


@pytest.mark.parametrize(("layer", "dims"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(
    "lower",
    [lambda m: portable(m, WeightType.INT8), lambda m: to_tensorrt_int8(Graph.of(m)).inline()],
    ids=["onnx", "trt-int8"],
)
def test_standard_operators_have_one_product_more(layer, dims, lower):
    own, plain = (lower(packed_model(la, dims)) for la in (layer, without_factors(layer)))
    assert operators(own) - operators(plain) == Counter({"Mul": 1})
    assert not operators(plain) - operators(own)
    # The product with its names, and a number for every channel.
    assert 0 < own.ByteSize() - plain.ByteSize() < 4 * layer.input_channels + 200


@pytest.mark.parametrize(("layer", "dims"), LAYERS.values(), ids=LAYERS)
def test_codes_are_those_of_inputs_that_were_multiplied_before(layer, dims):
    """A normalisation into which the factors were folded would give these, were it exact."""
    x = np.random.default_rng(0).standard_normal(dims).astype(np.float32)
    shape = (-1, 1, 1) if layer.conv else (-1,)
    before = (x * layer.input_factor.reshape(shape)).astype(np.float32)
    own = run_layer(layer, x, 1)
    folded = run_layer(without_factors(layer), before, 1)
    np.testing.assert_array_equal(own.codes, folded.codes)
    np.testing.assert_array_equal(own.output, folded.output)
