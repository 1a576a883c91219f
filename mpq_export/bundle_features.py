"""What a bundle says of cached temporal features: the ``temporal`` of its quantization_config, and
the tensors ``mpq.features.*``. ``docs/format.md`` specifies both."""

from __future__ import annotations

import math
import re
from typing import Any

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .core.feature_table import FeatureTable, check_feature_table
from .core.planes import ContractError

FEATURE_TENSORS = {name: f"mpq.features.{name}" for name in ("codes", "scale", "offset")}
MAX_REMOVED_WEIGHTS = 1 << 29
"""Of all removed layers together: a model of these is described, though never filled. DiT-XL/2 has
269 million."""
MODULE_NAME = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
MAX_MODULE_NAME = 512


def is_module_path(name: str) -> bool:
    """Whether a layer may be called so."""
    return len(name) <= MAX_MODULE_NAME and re.fullmatch(MODULE_NAME, name) is not None


class TemporalConfig(BaseModel):
    """Which layers a table stands for.

    Attributes:
        features: the layers whose outputs are in the table, in the order of its channels.
        labels: the condition that chooses among the table's labels; None where there is one.
        removed: the layers that the bundle does not have, those of the features and those that only
            they read, with the shape ``[O, K]`` of their weight.
        computed: layers whose outputs are features that were not cached, with the reason.
        errors: of features that could be cached, relative to full precision: the table's, and that
            of the quantised layers. Both are for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    features: list[str] = Field(min_length=1)
    labels: str | None = Field(None, pattern=r"^[a-z0-9_]{1,64}$")
    removed: dict[str, list[int]]
    computed: dict[str, str]
    errors: dict[str, list[float]]

    @model_validator(mode="after")
    def _features_are_among_the_removed(self) -> TemporalConfig:
        if len(set(self.features)) != len(self.features) or not self.removed.keys() >= set(
            self.features
        ):
            raise ValueError("features are layers that were removed, each once")
        for name, shape in self.removed.items():
            if not is_module_path(name):
                raise ValueError(f"{name!r} is not a module path")
            if len(shape) != 2 or not all(1 <= n <= MAX_REMOVED_WEIGHTS for n in shape):
                raise ValueError(f"{name}: the shape of a weight is [O, K]")
        if sum(map(math.prod, self.removed.values())) > MAX_REMOVED_WEIGHTS:
            raise ValueError(f"removed layers have {MAX_REMOVED_WEIGHTS} weights at most")
        return self

    def widths(self) -> dict[str, int]:
        """The number of channels of every feature, in the table's order."""
        return {name: self.removed[name][0] for name in self.features}


def feature_tensors(table: FeatureTable) -> dict[str, NDArray[Any]]:
    """The tensors of a table by the names under which a bundle has them."""
    return {stored: getattr(table, name) for name, stored in FEATURE_TENSORS.items()}


def take_features(
    tensors: dict[str, NDArray[Any]], config: TemporalConfig, steps: int
) -> FeatureTable:
    """Remove the table's tensors and check them.

    Raises ContractError where one is missing, breaks the contract, or is not of ``steps`` steps and
    the config's channels.
    """
    found = {}
    for name, stored in FEATURE_TENSORS.items():
        if stored not in tensors:
            raise ContractError(f"tensor {stored} is missing")
        found[name] = tensors.pop(stored)
    table = FeatureTable(**found)
    check_feature_table(table)
    channels = sum(config.widths().values())
    labels = table.codes.shape[1] if config.labels else 1
    if table.codes.shape != (steps, labels, channels):
        raise ContractError(
            f"the table of features is {list(table.codes.shape)}, not [{steps}, {labels}, "
            f"{channels}]"
        )
    return table
