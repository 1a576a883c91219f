"""What one call of a model costs: multiplications, values moved, activations alive at once.

The model runs on fake tensors, which have shapes and no data: nothing is loaded or computed, and
the operators are those of the CPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from ..core.layers import Quantizable


@dataclass(frozen=True)
class ModelWork:
    """The cost of one call.

    Attributes:
        macs: multiplications and additions, in pairs.
        moved: values that operators wrote.
        layer_inputs: values that entered quantised layers.
        layer_channels: channels of those inputs, summed over layers.
        peak_bytes: greatest sum of activations alive at once.
    """

    macs: int
    moved: int
    layer_inputs: int
    layer_channels: int
    peak_bytes: int


@dataclass(frozen=True)
class CallWork:
    """The cost of one call of one module.

    Attributes:
        inputs: values that it was given.
        outputs: values that it gave; of a tuple the first one's.
        moved: values that operators inside it wrote.
    """

    inputs: int
    outputs: int
    moved: int


def count_work(model: nn.Module, layers: Iterable[str], arguments: Mapping[str, Any]) -> ModelWork:
    """Run ``model(**arguments)`` on fake float32 tensors and count.

    Args:
        model: the full-precision model, on any device; it is not changed.
        layers: names of the layers whose inputs are counted.
        arguments: example arguments; of their tensors only shape and type matter.
    """
    seen = _LayerInputs()
    hooks = [
        cast(Quantizable, model.get_submodule(name)).register_forward_pre_hook(seen.hook)
        for name in layers
    ]
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    memory = _LiveMemory()
    try:
        with counter:
            _run_fake(model, arguments, memory)
    finally:
        for hook in hooks:
            hook.remove()
    return ModelWork(
        counter.get_total_flops() // 2, memory.written, seen.values, seen.channels, memory.peak
    )


def count_calls(
    model: nn.Module, modules: Iterable[str], arguments: Mapping[str, Any]
) -> dict[str, CallWork]:
    """Run ``model(**arguments)`` on fake float32 tensors and count the first call of each module
    that runs; arguments as of :func:`count_work`."""
    memory, calls = _LiveMemory(), dict[str, CallWork]()
    begun: dict[str, int] = {}

    def before(name: str) -> None:
        begun.setdefault(name, memory.written)

    def after(name: str, args: Any, kwargs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        own = CallWork(_values((args, kwargs)), _values(first), memory.written - begun[name])
        calls.setdefault(name, own)

    hooks: list[Any] = []
    for name in modules:
        module = model.get_submodule(name)
        hooks += [
            module.register_forward_pre_hook(lambda _module, _args, name=name: before(name)),
            module.register_forward_hook(
                lambda _module, args, kwargs, output, name=name: after(name, args, kwargs, output),
                with_kwargs=True,
            ),
        ]
    try:
        _run_fake(model, arguments, memory)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _run_fake(model: nn.Module, arguments: Mapping[str, Any], memory: _LiveMemory) -> None:
    with torch.no_grad(), FakeTensorMode():
        tensors = {
            name: _fake(value)
            for name, value in (*model.named_parameters(), *model.named_buffers())
        }
        fake = tree_map(_fake, dict(arguments))
        # Views of the weights are no activations.
        memory.known |= {tensor.untyped_storage() for tensor in tensors.values()}
        with memory:
            torch.func.functional_call(model, tensors, (), fake)


def _values(tree: Any) -> int:
    return sum(leaf.numel() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _fake(value: Any) -> Any:
    """A tensor without data on the CPU; floating-point ones are float32, as models are loaded."""
    if not isinstance(value, torch.Tensor):
        return value
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return torch.empty(value.shape, dtype=dtype, device="cpu")


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    """Two products per head, ``[B, H, L, E]`` each."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (width + value[3])


_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
"""torch counts the attention kernels of GPUs alone."""


class _LayerInputs:
    """Counts what enters the hooked layers."""

    values = 0
    channels = 0

    def hook(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook."""
        self.values += inputs[0].numel()
        self.channels += inputs[0].shape[1 if isinstance(module, nn.Conv2d) else -1]


class _LiveMemory(TorchDispatchMode):
    """Follows the storages that operators make until the last tensor on them goes."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.written = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor)
        return result

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.known:
            return
        self.known.add(storage)
        size = storage.nbytes()
        self.written += tensor.numel()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size
