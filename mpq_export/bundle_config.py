"""What a bundle's ``config.json`` says of quantisation. ``docs/format.md`` specifies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .bundle_features import TemporalConfig, is_module_path
from .core.integer_reference import MAX_EXTENT, ConvGeometry, PackedLayer
from .core.planes import MAX_COLUMNS
from .errors import BundleError

FORMAT_VERSION = 2
PLAIN_VERSION = 1
"""Of bundles without cached features."""
REBUILD = "Export the bundle again from its checkpoint"

Pair = tuple[int, int]


class LayerConfig(BaseModel):
    """What the tensors of one layer do not say: activation bits, K and the geometry."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["linear", "conv"]
    act_bits: int = Field(ge=2, le=8)
    K: int = Field(ge=1, le=MAX_COLUMNS)
    kernel_shape: list[int] | None = Field(None, min_length=2, max_length=2)
    strides: list[int] | None = Field(None, min_length=2, max_length=2)
    pads: list[int] | None = Field(None, min_length=4, max_length=4)
    dilations: list[int] | None = Field(None, min_length=2, max_length=2)
    group: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _geometry_belongs_to_convolutions(self) -> LayerConfig:
        geometry = [self.kernel_shape, self.strides, self.pads, self.dilations, self.group]
        if any((value is None) == (self.kind == "conv") for value in geometry):
            raise ValueError(
                "a conv has kernel_shape, strides, pads, dilations and group; a linear none"
            )
        for value in (self.kernel_shape, self.strides, self.dilations):
            if value is not None and not all(1 <= item <= MAX_EXTENT for item in value):
                raise ValueError(f"kernel_shape, strides and dilations are 1 to {MAX_EXTENT}")
        if self.pads is not None and not all(0 <= item <= MAX_EXTENT for item in self.pads):
            raise ValueError(f"pads are 0 to {MAX_EXTENT}")
        return self

    @classmethod
    def of(cls, layer: PackedLayer) -> LayerConfig:
        """The config of a packed layer."""
        conv = layer.conv
        if conv is None:
            return cls(kind="linear", act_bits=layer.act_bits, K=layer.weight.columns)
        return cls(
            kind="conv",
            act_bits=layer.act_bits,
            K=layer.weight.columns,
            kernel_shape=list(conv.kernel_shape),
            strides=list(conv.strides),
            pads=list(conv.pads),
            dilations=list(conv.dilations),
            group=conv.group,
        )

    def geometry(self) -> ConvGeometry | None:
        """The convolution's geometry; None for a linear layer."""
        if self.kernel_shape is None or self.strides is None or self.pads is None:
            return None
        if self.dilations is None or self.group is None:
            return None
        top, left, bottom, right = self.pads
        return ConvGeometry(
            _pair(self.kernel_shape),
            _pair(self.strides),
            (top, left, bottom, right),
            _pair(self.dilations),
            self.group,
        )


class QuantizationConfig(BaseModel):
    """The ``quantization_config`` of ``config.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    quant_method: Literal["mpq"] = "mpq"
    format_version: int = PLAIN_VERSION
    bits: str = Field(pattern=r"^w[2-8]a[2-8]$")
    method: str
    recipe: dict[str, Any]
    family: str | None = Field(None, pattern=r"^[a-z0-9_]+$")
    source: str
    source_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    full_precision_parameters: int = Field(ge=1, le=2**63 - 1)
    layers: dict[str, LayerConfig] = Field(min_length=1)
    eight_bit: dict[str, str]
    overridden: dict[str, str] | None = None
    kept: dict[str, str]
    temporal: TemporalConfig | None = None

    @model_validator(mode="after")
    def _layer_names_are_module_paths(self) -> QuantizationConfig:
        for name in self.layers:
            if not is_module_path(name):
                raise ValueError(f"{name!r} is not a module path")
        return self

    @model_validator(mode="after")
    def _the_version_says_whether_features_are_cached(self) -> QuantizationConfig:
        if (self.temporal is None) != (self.format_version == PLAIN_VERSION):
            raise ValueError(f"version {self.format_version} and temporal do not belong together")
        if self.temporal is not None and not self.temporal.removed.keys().isdisjoint(self.layers):
            raise ValueError("a layer that was removed is there")
        return self


def quantization_of(data: Any, where: Path) -> QuantizationConfig:
    """The validated ``quantization_config`` of the file ``where``; raises BundleError."""
    if not isinstance(data, dict) or data.get("quant_method") != "mpq":
        raise BundleError(
            "This is not an mpq bundle",
            where=where,
            why="It has no quantization_config of quant_method 'mpq'",
        )
    version = data.get("format_version")
    if type(version) is not int or version not in (PLAIN_VERSION, FORMAT_VERSION):
        raise BundleError(
            f"The bundle has format version {version}",
            where=where,
            why=f"This program reads versions {PLAIN_VERSION} and {FORMAT_VERSION}",
            fix="Install the mpq-export version that wrote it, or export it again",
        )
    try:
        return QuantizationConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            "quantization_config is malformed",
            where=where,
            why=f"{place}: {first['msg']}",
            fix=REBUILD,
        ) from error


def _pair(values: list[int]) -> Pair:
    return values[0], values[1]
