"""Every packed layer of a model on the GPU kernels against the numpy reference, exactly.

As :mod:`.node_fidelity`, for models that are no graphs: inputs and outputs are read by hooks while
the model runs operator by operator. Reads nothing of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from ..core.integer_reference import PackedLayer
from ..runtimes.gpu_kernels.operator import PackedModule
from .layer_fidelity import LayerFunction, LayerUse, NodeResult, compare_layer

_LAYERS_PER_RUN = 64
"""Bounds the memory of recorded activations."""


def compare_modules(
    model: nn.Module,
    layers: Mapping[str, PackedLayer],
    run: Callable[[], object],
    full_precision: Mapping[str, LayerFunction] | None = None,
) -> Iterator[NodeResult]:
    """Compare layer by layer, in the order of ``layers``.

    Args:
        model: a model with a :class:`PackedModule` in the place of every layer.
        layers: the layers by module name.
        run: calls the model, any number of times; it is run again for every few dozen layers.
        full_precision: the original layers by name, to measure quantisation noise.
    """
    names = list(layers)
    for start in range(0, len(names), _LAYERS_PER_RUN):
        part = names[start : start + _LAYERS_PER_RUN]
        uses: dict[str, list[LayerUse]] = {name: [] for name in part}
        hooks = [
            model.get_submodule(name).register_forward_hook(_keeping(uses[name])) for name in part
        ]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        for name in part:
            original = (full_precision or {}).get(name)
            yield compare_layer(name, layers[name], uses[name], original)


def _keeping(uses: list[LayerUse]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def keep(module: nn.Module, inputs: tuple[Any, ...], y: Any) -> None:
        assert isinstance(module, PackedModule)
        step = int(module.step_index.item())
        uses.append(LayerUse(inputs[0].cpu().numpy(), y.cpu().numpy(), step))

    return keep
