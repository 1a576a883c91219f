"""``make temporal-cache-table``: what caching temporal features takes from a model's graph.

python -m mpq_export.evaluation.temporal_cache_table --out docs/results

Models of the literature with random planes, once with the layers that make temporal features and
once with a table in their place. Neither bytes, nodes nor time depend on what the weights are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, cast

import numpy as np
import typer
from torch import nn

from ..architectures import architecture_of
from ..bundle import WEIGHTS, Bundle, write_bundle
from ..bundle_config import FORMAT_VERSION, LayerConfig, QuantizationConfig
from ..bundle_features import TemporalConfig
from ..cli import console
from ..core.feature_table import FeatureTable
from ..core.integer_reference import PackedLayer, input_channels
from ..core.layers import Quantizable, geometry_of
from ..core.planes import PackedMatrix, words_per_row
from ..core.temporal import unread_layers
from ..lowering.exporter import export_graph
from ..lowering.names import Target
from ..lowering.targets import read_lowered, write_lowered
from ..methods import recipe_of
from ..methods.plan import LayerPlan, plan_layers
from ..precision import BitSpec
from ..runtimes.onnxruntime_denoiser import OnnxRuntimeDenoiser
from ..temporal.cache_plan import CachePlan, plan_cache
from ..temporal.choices import CacheChoices
from .literature import MODELS, LiteratureModel
from .machine import describe_machine
from .report_files import machine_line, write_report

_NAMES = ("Stable Diffusion 1.x UNet", "DiT-XL/2 256")
_SIDE = 32
"""Of the latents: 256 pixels."""
_BITS = BitSpec(4, 8)
_STEPS = 20


@dataclass(frozen=True)
class Variant:
    """A bundle and its ``ort`` graph; ``ms`` are those of every timed step."""

    packed_bytes: int
    layers: int
    nodes: int
    ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Of a step."""
        return statistics.median(self.ms)


@dataclass(frozen=True)
class CacheRow:
    """A model with its layers and with a table.

    Attributes:
        model: its name.
        parameters: of the full-precision model.
        removed_parameters: those of layers that the table makes unread.
        features: layers whose outputs are in the table.
        computed: why other features are not.
        table_bytes: the table's.
        plain, cached: the two bundles.
    """

    model: str
    parameters: int
    removed_parameters: int
    features: int
    computed: tuple[str, ...]
    table_bytes: int
    plain: Variant
    cached: Variant


def measure(model: LiteratureModel, folder: Path, rounds: int) -> CacheRow:
    """Both bundles of a model, written into ``folder``, and their steps in turns."""
    empty = model.build()
    plan = plan_layers(empty, architecture_of(model.config), _BITS, recipe_of("rtn"))
    cache = plan_cache(empty, model.config, _STEPS, CacheChoices())
    plain = _random_bundle(folder / "plain", model, empty, plan)
    unread = unread_layers(cache.block.tape, list(cache.widths))
    bundles = (plain, _with_table(plain, folder / "cached", empty, cache, unread))
    denoisers, nodes = [], []
    for bundle in bundles:
        bundle.path.mkdir()
        write_bundle(bundle.path, bundle)
        write_lowered(bundle.path, export_graph(bundle), Target.ORT)
        nodes.append(len(read_lowered(bundle.path, Target.ORT).model.graph.node))
        denoisers.append(OnnxRuntimeDenoiser(bundle))
    ms = _timed(denoisers, model.config, rounds)
    variants = [
        Variant((bundle.path / WEIGHTS).stat().st_size, len(bundle.layers), count, tuple(times))
        for bundle, count, times in zip(bundles, nodes, ms, strict=True)
    ]
    features = bundles[1].features
    return CacheRow(
        model=model.name,
        parameters=_parameters(empty),
        removed_parameters=sum(_parameters(empty.get_submodule(name)) for name in unread),
        features=len(cache.widths),
        computed=tuple(sorted(set(cache.computed.values()))),
        table_bytes=0 if features is None else features.nbytes,
        plain=variants[0],
        cached=variants[1],
    )


def table(rows: Sequence[CacheRow]) -> str:
    """Markdown."""
    lines = [
        "# Temporal features from a table",
        "",
        f"Command: `make temporal-cache-table`; {_BITS}, tables of {_STEPS} steps, random weights, "
        f"one image of {_SIDE} x {_SIDE} latents, ONNX Runtime on the CPU with the native library.",
        machine_line(describe_machine()),
        "",
        "| model | parameters | gone | features | table kB | weights MB | layers | nodes | ms a "
        "step | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        one, other = row.plain, row.cached
        ratios = [b / a for a, b in zip(one.ms, other.ms, strict=True)]
        lines.append(
            f"| {row.model} | {row.parameters / 1e6:.1f} M | {row.removed_parameters / 1e6:.1f} M "
            f"| {row.features} | {row.table_bytes / 1e3:.0f} "
            f"| {one.packed_bytes / 1e6:.1f} to {other.packed_bytes / 1e6:.1f} "
            f"| {one.layers} to {other.layers} | {one.nodes} to {other.nodes} "
            f"| {one.median_ms:.0f} to {other.median_ms:.0f} "
            f"| {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
        )
    lines += [
        "",
        "Steps of the two were timed in turns; the ratio is the median of those of neighbours,",
        "with the least and the greatest. Where the machine does other work, times say little.",
        "",
    ]
    for row in rows:
        lines += [f"{row.model}: {reason}." for reason in row.computed]
    return "\n".join(lines) + "\n"


def _timed(
    denoisers: Sequence[OnnxRuntimeDenoiser], config: Mapping[str, Any], rounds: int
) -> list[list[float]]:
    architecture, rng = architecture_of(config), np.random.default_rng(0)
    sample = rng.standard_normal((1, *architecture.sample_shape(config)), dtype=np.float32)
    conditions = {spec.name: spec.draw(1, rng) for spec in architecture.conditions(config)}
    times: list[list[float]] = [[] for _ in denoisers]
    for turn in range(rounds + 1):
        for own, denoiser in zip(times, denoisers, strict=True):
            started = time.perf_counter()
            denoiser(sample, float(turn % _STEPS), **conditions)
            if turn:  # the first one warms up
                own.append((time.perf_counter() - started) * 1e3)
    return times


def _random_bundle(
    folder: Path, model: LiteratureModel, empty: nn.Module, plan: LayerPlan
) -> Bundle:
    rng = np.random.default_rng(0)
    layers = {
        name: _random_layer(cast(Quantizable, empty.get_submodule(name)), choices.bits, rng)
        for name, choices in plan.layers.items()
    }
    inside = tuple(f"{name}." for name in layers)
    parameters = {
        name: rng.standard_normal(tuple(value.shape), dtype=np.float32) * np.float32(0.02)
        for name, value in empty.state_dict().items()
        if not name.startswith(inside)
    }
    config = QuantizationConfig(
        bits=str(_BITS),
        method="rtn",
        recipe={},
        source="random weights",
        full_precision_parameters=_parameters(empty),
        layers={name: LayerConfig.of(layer) for name, layer in layers.items()},
        eight_bit={},
        kept={},
    )
    timesteps, bias = np.arange(_STEPS, dtype=np.int32), np.zeros(_STEPS, np.float32)
    scheduler = {"_class_name": "DDIMScheduler"}
    return Bundle(
        folder, dict(model.config), scheduler, config, layers, parameters, timesteps, bias
    )


def _random_layer(module: Quantizable, bits: BitSpec, rng: np.random.Generator) -> PackedLayer:
    rows, columns, planes = module.weight.shape[0], module.weight[0].numel(), bits.weight
    words = rng.integers(-(2**31), 2**31, (planes * rows, words_per_row(columns)), np.int64)
    packed = words.astype(np.int32)
    if columns % 32:
        packed[:, -1] &= np.int32(2 ** (columns % 32) - 1)
    steps = np.array([-(2 ** (planes - 1)), *(2**p for p in range(planes))])
    if planes == 8:
        steps[0] = steps[-1] = 0  # seven planes' range: eight would leave int8
    conv = geometry_of(module)
    channels = input_channels(columns, conv)
    matrix = PackedMatrix(
        packed,
        np.full(planes, rows, np.int32),
        np.repeat(steps[:, None], rows, axis=1).astype(np.int8),
        np.full(rows, 1 / (abs(steps).max() * columns**0.5), np.float32),
        np.arange(rows, dtype=np.int32),
        columns,
    )
    return PackedLayer(
        weight=matrix,
        bias=np.zeros(rows, np.float32),
        act_scale=np.full(_STEPS, 0.05, np.float32),
        act_zero_point=np.full(_STEPS, 2 ** (bits.activation - 1), np.int32),
        act_bits=bits.activation,
        input_factor=np.ones(channels, np.float32),
        input_shift=np.zeros(channels, np.int8),
        conv=conv,
    )


def _with_table(
    bundle: Bundle, folder: Path, empty: nn.Module, cache: CachePlan, unread: Sequence[str]
) -> Bundle:
    """The same bundle with a table of random features."""
    rng, channels = np.random.default_rng(1), sum(cache.widths.values())
    removed = {}
    for name in unread:
        rows, columns = cast(nn.Linear, empty.get_submodule(name)).weight.shape
        is_embedding = isinstance(empty.get_submodule(name), nn.Embedding)
        removed[name] = [columns, rows] if is_embedding else [rows, columns]
    temporal = TemporalConfig(
        features=list(cache.widths),
        labels=None if cache.labels is None else cache.labels.name,
        removed=removed,
        computed=dict(cache.computed),
        errors={},
    )
    layers = {name: layer for name, layer in bundle.layers.items() if name not in removed}
    config = bundle.quantization.model_copy(
        update={
            "format_version": FORMAT_VERSION,
            "temporal": temporal,
            "layers": {name: bundle.quantization.layers[name] for name in layers},
        }
    )
    gone = tuple(f"{name}." for name in removed)
    features = FeatureTable(
        rng.integers(-127, 128, (_STEPS, cache.rows, channels)).astype(np.int8),
        np.full(channels, 0.01, np.float32),
        np.zeros(channels, np.float32),
    )
    return replace(
        bundle,
        path=folder,
        quantization=config,
        layers=layers,
        parameters={k: v for k, v in bundle.parameters.items() if not k.startswith(gone)},
        features=features,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main(
    out: Annotated[Path, typer.Option(help="Folder of temporal_cache.md and temporal_cache.json.")],
    only: Annotated[list[str] | None, typer.Option(help="Measure just these models.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each.")] = 7,
) -> None:
    """Measure the literature's models, with room for 1.5 GB in the system's temporary folder."""
    rows = []
    for model in MODELS:
        if model.name in (only or _NAMES):
            small = replace(model, config={**model.config, "sample_size": _SIDE})
            with TemporaryDirectory() as folder:
                rows.append(measure(small, Path(folder), rounds))
            figures = {"machine": describe_machine(), "rows": [asdict(row) for row in rows]}
            write_report(out, "temporal_cache", figures, table(rows))
    console.say_lines(table(rows))


if __name__ == "__main__":
    typer.run(main)
