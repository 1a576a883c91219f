"""Whole denoising steps: a packed model on the GPU kernels against torch's float16.

Needs diffusers and what reads a bundle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from ...prediction import predict
from ...progress import ProgressReporter
from ...runtimes.gpu_denoiser import GpuDenoiser
from ...runtimes.replayed import TensorFunction
from ..module_fidelity import compare_modules
from ..timing.failures import one_line
from ..timing.statistics import ratio
from .place import Place
from .random_models import BITS, Network, drawn_inputs, random_model, rounded_bundle
from .report import NO_TIME
from .turns import Subject, Timed, in_turns, prepared

_OURS_EAGER, _OURS = "packed, operator by operator", "packed, CUDA graph"
_OURS_COMPILED = "packed, compiled, CUDA graph"
_EAGER, _GRAPH = "float16", "float16, CUDA graph"
_COMPILED, _COMPILED_GRAPH = "float16, compiled", "float16, compiled, CUDA graph"


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
    return {"bits": BITS, "rows": rows}


def _measured(network: Network, place: Place, rounds: int, deadline: float) -> dict[str, Any]:
    """A row, or why there is none: a small GPU may not hold the largest."""
    try:
        return _row(network, place, rounds, deadline)
    except Exception as error:
        return {"name": network.name, "failure": one_line(error)}


def _row(network: Network, place: Place, rounds: int, deadline: float) -> dict[str, Any]:
    torch.manual_seed(0)
    model = random_model(network.config)
    bundle = rounded_bundle(model, network.config)
    inputs = drawn_inputs(network, place)
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


def _is_transformer(config: Mapping[str, Any]) -> bool:
    return "Transformer" in config["_class_name"]


def _tensors(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    device = inputs["sample"].device
    return {**inputs, "timestep": torch.full((1,), inputs["timestep"], device=device)}
