"""Whole denoising steps: a packed model on the GPU kernels against torch's float16.

Weights are random, of diffusers' own initialisation, and packed by rounding them; time does not
depend on either. Needs diffusers and what reads a bundle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ...architectures import architecture_of
from ...bundle import Bundle, LayerConfig, QuantizationConfig
from ...core.integer_reference import PackedLayer
from ...core.layers import geometry_of, weight_matrix
from ...methods import recipe_of
from ...methods.plan import LayerPlan, plan_layers
from ...precision import BitSpec
from ...prediction import predict
from ...progress import ProgressReporter
from ...runtimes.gpu_denoiser import GpuDenoiser
from ...runtimes.replayed import TensorFunction
from ..cpu_benchmark.models import MODELS
from ..literature import MODELS as LITERATURE
from ..module_fidelity import compare_modules
from ..timing.failures import one_line
from ..timing.statistics import ratio
from .place import Place
from .report import NO_TIME
from .rounding import mixed_planes, rounded_layer
from .turns import Subject, Timed, in_turns, prepared

_BITS = "w3a8"
_TIMESTEP = 500
_THREADS = 8
_OURS_EAGER, _OURS = "packed, operator by operator", "packed, CUDA graph"
_OURS_COMPILED = "packed, compiled, CUDA graph"
_EAGER, _GRAPH = "float16", "float16, CUDA graph"
_COMPILED, _COMPILED_GRAPH = "float16, compiled", "float16, compiled, CUDA graph"


@dataclass(frozen=True)
class Network:
    """A model class of a config, and the images of a step.

    ``check_layers``: its layers are compared with the reference, too.
    """

    name: str
    config: Mapping[str, Any]
    batch: int
    check_layers: bool = False


def _literature(name: str) -> Mapping[str, Any]:
    return next(model.config for model in LITERATURE if model.name == name)


def _small_unet() -> Mapping[str, Any]:
    config = MODELS["unet26m"].config
    assert config is not None
    return config


NETWORKS = (
    Network("UNet of 25.8 M, 32x32", _small_unet(), 1, check_layers=True),
    Network("Stable Diffusion 1.x UNet, 64x64", _literature("Stable Diffusion 1.x UNet"), 2),
    Network("DiT-XL/2, 32x32", _literature("DiT-XL/2 256"), 2),
)
EMULATED_NETWORKS = (
    Network(
        "tiny UNet",
        {
            "_class_name": "UNet2DModel",
            "sample_size": 8,
            "in_channels": 2,
            "out_channels": 2,
            "layers_per_block": 1,
            "block_out_channels": [8, 16],
            "norm_num_groups": 4,
            "attention_head_dim": 8,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        },
        1,
        check_layers=True,
    ),
)


def measure_networks(
    place: Place,
    networks: Sequence[Network],
    rounds: int,
    deadline: float,
    progress: ProgressReporter,
) -> dict[str, Any]:
    """A row for every network; one that would begin after the deadline says so instead.

    Args:
        place: where.
        networks: what.
        rounds: timed steps of every subject.
        deadline: of ``time.monotonic``.
        progress: told of every network.
    """
    progress.start("networks", len(networks))
    rows = []
    for done, network in enumerate(networks):
        now = time.monotonic()
        if now > deadline:
            rows.append({"name": network.name, "skipped": NO_TIME})
        else:
            share = (deadline - now) / (len(networks) - done)
            rows.append(_measured(network, place, rounds, now + share))
        progress.advance()
        torch.compiler.reset()
        if not place.emulated:
            torch.cuda.empty_cache()
    return {"bits": _BITS, "rows": rows}


def _measured(network: Network, place: Place, rounds: int, deadline: float) -> dict[str, Any]:
    """A row, or why there is none: a small GPU may not hold the largest."""
    try:
        return _row(network, place, rounds, deadline)
    except Exception as error:
        return {"name": network.name, "failure": one_line(error)}


def _row(network: Network, place: Place, rounds: int, deadline: float) -> dict[str, Any]:
    torch.manual_seed(0)
    model = _model(network.config)
    bundle = _rounded(model, network.config)
    inputs = _inputs(network, place)
    model = nn.Module.to(model, place.gpu.device, torch.float16)
    if not _is_transformer(network.config):
        model = cast(Any, model).to(memory_format=torch.channels_last)
    denoiser = GpuDenoiser(bundle, place.gpu, None)
    row: dict[str, Any] = {
        "name": network.name,
        "batch": network.batch,
        "layers": len(bundle.layers),
    }
    if network.check_layers:
        results = list(compare_modules(denoiser.model, bundle.layers, lambda: denoiser(**inputs)))
        row["layers_exact"] = sum(result.equal for result in results)
    given = _tensors(inputs)
    subjects, timed = [], {}
    for name, make in _subjects(model, denoiser, network.config, place).items():
        if time.monotonic() > deadline and "compiled" in name:
            timed[name] = Timed(failure="no time was left to compile")
            continue
        one = prepared(name, partial(_recorded, name, make, given, place))
        if isinstance(one, Subject):
            subjects.append(one)
        else:
            timed[name] = one
    timed |= in_turns(subjects, rounds, place.stopwatch.ms)
    row["ms"] = {
        name: asdict(one.spread) if one.spread else {"failure": one.failure}
        for name, one in timed.items()
    }
    row["over"] = {
        ours: {name: ratio(one.ms, timed[ours].ms) for name, one in timed.items() if one.ms}
        for ours in (_OURS, _OURS_COMPILED)
        if timed[ours].ms
    }
    return row


@dataclass(frozen=True)
class _Step:
    """A function of the inputs, and whether it is to be recorded."""

    function: TensorFunction
    graph: bool


def _subjects(
    model: nn.Module, denoiser: GpuDenoiser, config: Mapping[str, Any], place: Place
) -> dict[str, Callable[[], _Step]]:
    """What is timed, each made when its turn to be prepared has come."""

    compiled, ours_compiled = (
        torch.compile(one, backend=place.compile_backend) for one in (model, denoiser.model)
    )

    def plain(one: Any) -> TensorFunction:
        return lambda inputs: _predicted(one, config, inputs)

    return {
        _OURS: lambda: _Step(denoiser.predict_on_device, True),
        _OURS_EAGER: lambda: _Step(denoiser.predict_on_device, False),
        _EAGER: lambda: _Step(plain(model), False),
        _GRAPH: lambda: _Step(plain(model), True),
        _COMPILED: lambda: _Step(plain(compiled), False),
        _COMPILED_GRAPH: lambda: _Step(plain(compiled), True),
        _OURS_COMPILED: lambda: _Step(plain(ours_compiled), True),
    }


def _predicted(
    model: Any, config: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """A step of torch's float16, from and to float32 as ours."""
    halves = {
        name: value.half() if value.dtype == torch.float32 and name != "timestep" else value
        for name, value in inputs.items()
    }
    sample, timestep = halves.pop("sample"), halves.pop("timestep")
    return predict(model, config, sample, timestep, halves).float()


def _recorded(
    name: str, make: Callable[[], _Step], given: Mapping[str, torch.Tensor], place: Place
) -> Subject:
    step = make()

    def call() -> torch.Tensor:
        with torch.no_grad():
            return step.function(given)

    recorder = place.recorder()
    recorder.warm_up(call)
    if not step.graph:
        return Subject(name, call)
    recording = recorder.record(call)

    def replay() -> object:  # and keep what the recording reads
        recording.replay()
        return call

    return Subject(name, replay)


# --- models and inputs --------------------------------------------------------------------------


def _model(config: Mapping[str, Any]) -> nn.Module:
    import diffusers

    cls = getattr(diffusers, config["_class_name"])
    model: nn.Module = cls.from_config(dict(config))
    return model.eval().requires_grad_(False)


def _is_transformer(config: Mapping[str, Any]) -> bool:
    return "Transformer" in config["_class_name"]


def _inputs(network: Network, place: Place) -> dict[str, Any]:
    """Arguments of a denoiser, on the device."""
    architecture, rng = architecture_of(network.config), np.random.default_rng(0)
    shape = (network.batch, *architecture.sample_shape(network.config))
    arrays = {
        "sample": rng.standard_normal(shape, np.float32),
        **{
            spec.name: spec.draw(network.batch, rng)
            for spec in architecture.conditions(network.config)
        },
    }
    tensors = {name: torch.from_numpy(array).to(place.gpu.device) for name, array in arrays.items()}
    return {**tensors, "timestep": float(_TIMESTEP)}


def _tensors(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    device = inputs["sample"].device
    return {**inputs, "timestep": torch.full((1,), inputs["timestep"], device=device)}


def _rounded(model: nn.Module, config: Mapping[str, Any]) -> Bundle:
    """The model as a bundle that lies nowhere."""
    plan = plan_layers(
        model, architecture_of(config), BitSpec.parse(_BITS), recipe_of("rtn").trained_for(0)
    )
    with ThreadPoolExecutor(_THREADS) as pool:
        packed = pool.map(lambda name: _packed(model, plan, name), plan.layers)
        layers = dict(zip(plan.layers, packed, strict=True))
    own = tuple(f"{name}." for name in layers)
    return Bundle(
        path=Path("random"),
        model_config=dict(config),
        scheduler_config={"_class_name": "DDIMScheduler"},
        quantization=QuantizationConfig(
            bits=_BITS,
            method="rtn",
            recipe={},
            source="random weights",
            full_precision_parameters=sum(value.numel() for value in model.parameters()),
            layers={name: LayerConfig.of(layer) for name, layer in layers.items()},
            eight_bit=dict(plan.eight_bit),
            kept=dict(plan.kept),
        ),
        layers=layers,
        parameters={
            name: value.numpy()
            for name, value in model.named_parameters()
            if not name.startswith(own)
        },
        timesteps=np.array([_TIMESTEP], np.int32),
        output_bias=np.zeros(1, np.float32),
    )


def _packed(model: nn.Module, plan: LayerPlan, name: str) -> PackedLayer:
    module, bits = model.get_submodule(name), plan.layers[name].bits
    assert isinstance(module, nn.Linear | nn.Conv2d)
    weights = np.ascontiguousarray(weight_matrix(module).numpy())
    rows, conv = len(weights), geometry_of(module)
    # Eight bits are uniform, and so are groups' rows.
    alike = bits.weight == 8 or (conv is not None and conv.group > 1)
    planes = np.full(rows, bits.weight) if alike else mixed_planes(rows, bits.weight)
    bias = None if module.bias is None else module.bias.detach().numpy().copy()
    return rounded_layer(weights, planes, bits.activation, conv, bias)
