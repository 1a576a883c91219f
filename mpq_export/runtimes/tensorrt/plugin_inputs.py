"""The shapes that a plugin's inputs must have; what they hold is the file's word.

The same is asked in C++, by ``plugins/tensorrt/src/tensors.cpp``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...core.kernel_layout import BLOCK_COLUMNS, TILE_ROWS, column_blocks
from ...errors import LayerError
from ...lowering.kernel_nodes import INPUTS
from ...lowering.nodes import RESIDUAL
from .plugin_fields import PluginLayer

Shape = tuple[int, ...]


def require_input_shapes(
    layer: PluginLayer, shapes: Sequence[Sequence[int]], output: Callable[[Shape], Shape]
) -> None:
    """Raise LayerError unless a node's inputs have the shapes that its layer reads.

    Args:
        layer: what the node's fields say.
        shapes: of X, the step's index, the layer's tensors, and a residual if there is one.
        output: the shape of Y for an X.
    """
    found = [tuple(shape) for shape in shapes]
    if len(found) not in (len(INPUTS), len(INPUTS) + 1):
        raise _refused(layer, f"It has {len(found)} inputs")
    x, words, steps = found[0], found[2], found[INPUTS.index("act_scale")]
    if layer.conv is None:
        fits = len(x) >= 1 and x[-1] == layer.channels
    else:
        fits = len(x) == 4 and x[1] == layer.channels
    if not fits:
        raise _refused(layer, f"X is {x}, the layer has {layer.channels} channels")
    group = 1 if layer.conv is None else layer.conv.group
    tiles = group * -(-(layer.rows // group) // TILE_ROWS)
    rows, planes = tiles * TILE_ROWS, len(layer.plane_rows)
    table = steps if len(steps) == 1 and steps[0] > 0 else (1,)
    wanted: dict[str, Shape] = {
        "step_index": (1,),
        "tile_begins": (tiles + 1,),
        "steps": (1 + planes, rows),
        "scale": (rows,),
        "bias": (rows,),
        "row_sums": (2, rows),
        "output_rows": (rows,),
        "act_scale": table,
        "act_zero_point": table,
        "input_factor": (layer.channels,),
        "input_shift": (layer.channels,),
    }
    if len(found) > len(INPUTS):
        wanted[RESIDUAL] = output(x)
    by_name = dict(zip((*INPUTS, RESIDUAL), found, strict=False))
    for name, shape in wanted.items():
        if by_name[name] != shape:
            raise _refused(layer, f"{name} is {by_name[name]}, not {shape}")
    taps = 1 if layer.conv is None else math.prod(layer.conv.kernel_shape)
    of_a_plane = column_blocks(layer.columns, taps) * BLOCK_COLUMNS
    size = words[0] if len(words) == 1 else 0
    if size % of_a_plane or not tiles <= size // of_a_plane <= tiles * planes:
        raise _refused(layer, f"words is {words}, not whole planes of {tiles} tiles")


def _refused(layer: PluginLayer, why: str) -> LayerError:
    return LayerError("The TensorRT plugin cannot take these inputs", where=layer.name, why=why)
