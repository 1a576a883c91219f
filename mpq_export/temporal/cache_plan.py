"""Which temporal features of a model a table can hold, and why others cannot be in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..architectures import architecture_of
from ..conditions import ClassLabels
from ..core.feature_table import table_bytes
from ..core.temporal import TIMESTEP, TemporalBlock, find_temporal_block, layer_inputs
from .choices import CacheChoices
from .recorded import record_model


@dataclass(frozen=True)
class CachePlan:
    """What would be cached.

    Attributes:
        block: what makes the features, recorded for one image of every label.
        widths: the channels of every feature, in the order of the table's.
        labels: what chooses among the table's labels; None where the timestep alone decides.
        computed: layers whose outputs are temporal features and cannot be cached, with the reason.
        table_bytes: what the table takes; 0 without features.
    """

    block: TemporalBlock
    widths: Mapping[str, int]
    labels: ClassLabels | None
    computed: Mapping[str, str]
    table_bytes: int

    @property
    def rows(self) -> int:
        """L, rows of the table for every step."""
        return 1 if self.labels is None else self.labels.count


def plan_cache(
    model: nn.Module, model_config: Mapping[str, Any], num_entries: int, choices: CacheChoices
) -> CachePlan:
    """The largest table of ``num_entries`` steps that the choices allow.

    Labels are a finite set: their features can be in the table, for every label. All else that is
    mixed with the timestep belongs to a request; then only what comes before the mixing is cached.
    """
    specs = architecture_of(model_config).conditions(model_config)
    tape = record_model(model, model_config, 1)
    whole = find_temporal_block(tape, [spec.name for spec in specs])
    labels = next((spec for spec in specs if isinstance(spec, ClassLabels)), None)
    too_large: dict[str, str] = {}
    for wanted in (labels, None) if labels is not None else (None,):
        block = find_temporal_block(tape, [] if wanted is None else [wanted.name])
        own = wanted if wanted is not None and wanted.name in block.inputs else None
        rows = 1 if own is None else own.count
        widths = {name: _width(model, name) for name in block.features}
        size = table_bytes(num_entries, rows, sum(widths.values()))
        if size <= choices.largest_table:
            break
        too_large |= {
            name: f"a table of {num_entries} steps and {rows} labels would take {size} bytes"
            for name in widths
        }
    else:
        block, own, widths, size = find_temporal_block(tape, ()), None, {}, 0
    if rows > 1 and widths:
        recorded = record_model(model, model_config, rows)
        block = find_temporal_block(recorded, [] if own is None else [own.name])
    return CachePlan(block, widths, own, _reasons(whole, widths, too_large), size)


def _reasons(
    whole: TemporalBlock, cached: Mapping[str, int], too_large: Mapping[str, str]
) -> dict[str, str]:
    """Why features are computed; ``whole`` has all of them."""
    depends = layer_inputs(whole.tape)
    return {
        name: too_large.get(name)
        or f"it depends on {', '.join(sorted(depends[name] - {TIMESTEP}))}, beside the timestep"
        for name in whole.features
        if name not in cached
    }


def _width(model: nn.Module, name: str) -> int:
    weight = model.get_submodule(name).weight
    return int(weight.shape[0])  # type: ignore[index]
