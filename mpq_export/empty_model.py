"""A diffusers model without weights, built from a config that need not be honest."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from .architectures import architecture_of
from .errors import UserError

_REGISTRATIONS = 2
"""How often a constructor may register a tensor: some modules do it under two names."""
_MODULES_PER_PARAMETER = 16
"""Far more than any model has: lists, activations and dropouts have no parameters."""


_MAX_TABLE = 1 << 27


class _TooLarge(Exception):
    """The config asks for more than it may."""


def build_empty_model(
    config: Mapping[str, Any], parameters: int, elements: int, error: UserError
) -> nn.Module:
    """The model of a config, its parameters on the ``meta`` device.

    Args:
        config: diffusers' component config, of a supported class.
        parameters: how many tensors there are to fill it with.
        elements: how many numbers those hold.
        error: raised, with the cause, if the config builds no model, or one that is larger.
    """
    import diffusers
    from accelerate import init_empty_weights

    cls = getattr(diffusers, architecture_of(config).class_name)
    try:
        _require_small_tables(config)
        with at_most(parameters, elements), init_empty_weights(include_buffers=False):
            model: nn.Module = cls.from_config(dict(config))
    except Exception as problem:  # a config that fits no model raises anything
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        raise type(error)(error.what, where=error.where, why=lines[0], fix=error.fix) from problem
    return model


def _require_small_tables(config: Mapping[str, Any]) -> None:
    """Transformers compute a table of positions when they are built, by their config alone."""
    architecture = architecture_of(config)
    if "Transformer" not in architecture.class_name:
        return
    _, height, width = architecture.sample_shape(config)
    defaults = {"patch_size": 2, "num_attention_heads": 16, "attention_head_dim": 72}
    patch, heads, head = (config.get(key) or default for key, default in defaults.items())
    if any(type(number) is not int or number < 1 for number in (patch, heads, head)):
        raise _TooLarge(f"{', '.join(defaults)} are whole numbers")
    entries = (height // patch) * (width // patch) * heads * head
    if entries > _MAX_TABLE:
        raise _TooLarge(f"Its table of positions would have {entries} entries")


@contextmanager
def at_most(parameters: int, elements: int) -> Iterator[None]:
    """Stop a constructor of this thread as soon as its model is larger than its weights.

    It stops with an exception of its own, which callers take for a config that fits no model.
    """
    thread, counted = threading.get_ident(), Counter[str]()
    allowed = {
        "tensors": _REGISTRATIONS * parameters,
        "numbers": _REGISTRATIONS * elements,
        "modules": _MODULES_PER_PARAMETER * (parameters + 1),
    }

    def count(what: str, amount: int) -> None:
        counted[what] += amount
        if counted[what] > allowed[what]:
            raise _TooLarge(
                f"It describes a larger model than {parameters} tensors of {elements} numbers fill"
            )

    def on_parameter(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and threading.get_ident() == thread:
            count("tensors", 1)
            count("numbers", parameter.numel())

    def on_module(*_: object) -> None:
        if threading.get_ident() == thread:
            count("modules", 1)

    hooks = (
        register_module_parameter_registration_hook(on_parameter),
        register_module_module_registration_hook(on_module),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
