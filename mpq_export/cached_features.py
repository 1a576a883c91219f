"""Temporal features from their table, in a model whose layers for them are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from .core.feature_table import FeatureTable
from .errors import BundleError


@dataclass
class FeatureValues:
    """The features of the step and the images that a model is called for, float32 ``[B, O]``."""

    by_layer: dict[str, torch.Tensor] = field(default_factory=dict)


class CachedFeatures(nn.Module):
    """The table on a device; :meth:`select` is called before the model.

    Without a table it does nothing.

    Attributes:
        values: what :class:`FeatureLayer` of a layer gives.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(
        self, table: FeatureTable | None, widths: Mapping[str, int], labels: str | None
    ) -> None:
        """Args: ``widths`` of every cached layer's output, in the order of the table's channels;
        ``labels`` the condition that chooses among the table's labels, or None."""
        super().__init__()
        self.values, self._widths, self._labels = FeatureValues(), dict(widths), labels
        if table is not None:
            self.register_buffer("codes", torch.from_numpy(table.codes.copy()))
            self.register_buffer("scale", torch.from_numpy(table.scale.copy()))
            self.register_buffer("offset", torch.from_numpy(table.offset.copy()))

    def stand_in(self, name: str, width: int, removed: nn.Module) -> nn.Module:
        """What takes the place of a ``removed`` layer of ``width`` outputs."""
        if name in self._widths:
            return FeatureLayer(name, self.values)
        return UnreadLayer(width, isinstance(removed, nn.Embedding))

    def select(
        self,
        step_index: torch.Tensor,
        sample: torch.Tensor,
        conditions: Mapping[str, torch.Tensor],
    ) -> None:
        """The features for ``sample`` ``[B, ...]`` at a step, int ``[1]``, on the table's device.

        Raises IndexError for a label that the table does not have.
        """
        if not self._widths:
            return
        codes = self.codes.index_select(0, step_index).squeeze(0)
        if self._labels is not None:
            codes = codes.index_select(0, conditions[self._labels])
        features = codes.float() * self.scale + self.offset
        if self._labels is None:
            features = features.expand(sample.shape[0], -1)
        parts = features.split(list(self._widths.values()), dim=1)
        self.values.by_layer = dict(zip(self._widths, parts, strict=True))


class FeatureLayer(nn.Module):
    """Gives a cached feature, whatever its input is."""

    def __init__(self, name: str, values: FeatureValues) -> None:
        super().__init__()
        self.name, self.values = name, values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, K]`` to ``[B, O]``, in the type of ``x``."""
        if x.dim() != 2:  # a bundle may name any layer
            raise BundleError(f"The output of {self.name} is no temporal feature", where=self.name)
        return self.values.by_layer[self.name].to(x.dtype)


class UnreadLayer(nn.Module):
    """Stands for a layer whose output reaches nothing any more: zeros of its shape."""

    def __init__(self, width: int, keeps_input: bool) -> None:
        """Args: ``keeps_input`` where every number of the input gets an output of ``width``, as in
        an embedding, instead of every last axis."""
        super().__init__()
        self.width, self.keeps_input = width, keeps_input

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Linear: ``[..., K]`` to ``[..., O]``, in the type of ``x``; embedding: whole numbers
        ``[...]`` to float32 ``[..., O]``."""
        around = x.shape if self.keeps_input else x.shape[:-1]
        kind = torch.float32 if self.keeps_input else x.dtype
        return torch.zeros(1, dtype=kind, device=x.device).expand(*around, self.width)
