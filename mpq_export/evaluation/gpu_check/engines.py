"""TensorRT's engines of one model: packed layers, plain INT8, and full precision in float16.

Each is built here and now, strongly typed, with float16 between its nodes, and its step timed as
a user has it: numpy arrays in and out. Predictions are held against torch's, image by image: of the
two quantised ones against the packed model on the GPU kernels, of float16 against full precision,
both in float32.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...bundle import Bundle
from ...export import export_bundle
from ...lowering.graph_inputs import TIMESTEP as TIMESTEP_INPUT
from ...lowering.names import Target
from ...lowering.targets import read_lowered
from ...prediction import predict
from ...progress import ProgressReporter, Silence
from ...runtimes.cuda.gpu import gpu_here
from ...runtimes.gpu_denoiser import GpuDenoiser
from ...runtimes.graph_feeds import graph_feeds
from ...runtimes.onnxruntime_denoiser import make_session, run
from ...runtimes.tensorrt.denoiser import open_tensorrt
from ...runtimes.tensorrt.engine_builds import EngineRequest, build
from ...runtimes.tensorrt.installed import installed, usual_runtime
from ...tools.compare import USUAL_LIMIT, relative_error
from ..timing.failures import one_line
from ..timing.statistics import ratio
from .place import Place, WallClock
from .random_models import BITS, Network, drawn_inputs, random_model, rounded_bundle
from .report import FLOAT16_ENGINE, NO_TIME, PACKED_ENGINE, PLAIN_INT8_ENGINE
from .turns import Subject, Timed, in_turns

Arrays = Mapping[str, Any]
"""Arguments of a denoiser."""
Prediction = NDArray[np.float32]


@dataclass(frozen=True)
class Opened:
    """An engine that is ready.

    Attributes:
        predict: a step.
        facts: what is to be said of it.
    """

    predict: Callable[[Arrays], Prediction]
    facts: Mapping[str, Any]


class Engines(Protocol):
    """What makes engines.

    Attributes:
        origin: which TensorRT it is, in a few words.
        packed: the target whose graph it takes for the packed layers.
    """

    origin: str
    packed: Target

    def open(self, bundle: Bundle, target: Target, batch: int) -> Opened:
        """An engine of a lowered bundle for batches of this size."""


class NoTime(Exception):
    """The deadline came while an engine was built."""


class _Until(Silence):
    """Ends a build at a deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def advance(self, parts: int = 1) -> None:
        """Raises NoTime, and then nothing of the build is left."""
        if time.monotonic() > self._deadline:
            raise NoTime

    def note(self, text: str) -> None:
        """As :meth:`advance`."""
        self.advance()


class TensorRtEngines:
    """The TensorRT that is here.

    Args:
        deadline: of ``time.monotonic``, for builds.
    """

    packed = Target.TRT

    def __init__(self, deadline: float) -> None:
        """Raises RuntimeUnavailable, with the reason for each, where none builds for this GPU."""
        self._deadline = deadline
        gpu = gpu_here()
        self._runtime = usual_runtime(gpu)
        here = installed(self._runtime)
        here.capabilities(gpu)
        self.origin = str(here)

    def open(self, bundle: Bundle, target: Target, batch: int) -> Opened:
        """As :class:`Engines`: built, verified, opened; raises NoTime at the deadline."""
        request = EngineRequest(target, self._runtime, f"batch:{batch}")
        record = build(bundle, request, _Until(self._deadline), lambda _: None).record
        denoiser = open_tensorrt(bundle, self._runtime, target)

        def step(inputs: Arrays) -> Prediction:
            return denoiser(**inputs)

        facts = {"plan_mb": record.size / 1e6, "build_seconds": record.seconds}
        return Opened(step, facts)


class EmulatedEngines:
    """ONNX Runtime in the place of TensorRT, on the same graphs; packed layers in their portable
    form."""

    origin, packed = "emulated by ONNX Runtime", Target.ONNX

    def open(self, bundle: Bundle, target: Target, batch: int) -> Opened:
        """As :class:`Engines`: a session."""
        session = make_session(read_lowered(bundle.path, target))
        taken = {value.name for value in session.get_inputs()}

        def step(inputs: Arrays) -> Prediction:
            given = dict(inputs)
            sample, timestep = given.pop("sample"), given.pop(TIMESTEP_INPUT)
            feeds = graph_feeds(bundle.model_config, bundle.timesteps, sample, timestep, given)
            return run(session, {name: feeds[name] for name in taken})

        size = (bundle.path / "onnx" / target.value / "model.onnx").stat().st_size
        return Opened(step, {"plan_mb": size / 1e6})


def measure_engines(
    place: Place,
    engines: Engines,
    networks: Sequence[Network],
    rounds: int,
    deadline: float,
    progress: ProgressReporter,
) -> dict[str, Any]:
    """A row for every network; one that would begin after the deadline says so instead.

    Args:
        place: where the reference runs.
        engines: what makes engines.
        networks: of which models.
        rounds: timed steps of every engine.
        deadline: of ``time.monotonic``.
        progress: told of every network.
    """
    progress.start("engines of networks", len(networks))
    rows = []
    for network in networks:
        if time.monotonic() > deadline:
            rows.append({"name": network.name, "skipped": NO_TIME})
        else:
            try:
                rows.append(_row(network, place, engines, rounds, deadline))
            except Exception as error:
                rows.append({"name": network.name, "failure": one_line(error)})
        progress.advance()
    return {"bits": BITS, "tensorrt": engines.origin, "limit": USUAL_LIMIT, "rows": rows}


@dataclass(frozen=True)
class _Subject:
    """One kind of engine: its bundle, the target, and torch's prediction."""

    bundle: Bundle
    target: Target
    reference: Callable[[], Prediction]


def _row(
    network: Network, place: Place, engines: Engines, rounds: int, deadline: float
) -> dict[str, Any]:
    torch.manual_seed(0)
    model = random_model(network.config)
    bundle, inputs = rounded_bundle(model, network.config), drawn_inputs(network, place)
    arrays = {
        name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
    packed = _once(partial(_packed_prediction, bundle, place, inputs))
    whole = _once(partial(_whole_prediction, model, network.config, place, inputs))
    kinds = {
        PACKED_ENGINE: _Subject(bundle, engines.packed, packed),
        PLAIN_INT8_ENGINE: _Subject(bundle, Target.TRT_INT8, packed),
        # A graph without packed layers is the same for both targets.
        FLOAT16_ENGINE: _Subject(_unquantised(model, bundle), Target.TRT_INT8, whole),
    }
    found: dict[str, dict[str, Any]] = {}
    subjects = []
    with tempfile.TemporaryDirectory() as folder:
        for index, (name, kind) in enumerate(kinds.items()):
            if time.monotonic() > deadline:
                found[name] = {"skipped": NO_TIME}
                continue
            try:
                opened = _opened(kind, engines, Path(folder) / str(index), network.batch)
                found[name] = {**opened.facts, **_errors(opened.predict(arrays), kind.reference())}
                subjects.append(Subject(name, partial(opened.predict, arrays)))
            except NoTime:
                found[name] = {"skipped": NO_TIME}
            except Exception as error:  # TensorRT's, or ours: the others may still run
                found[name] = {"failure": one_line(error)}
        timed = in_turns(subjects, rounds, WallClock().ms)
    for name, one in timed.items():
        found[name] |= {"ms": asdict(one.spread)} if one.spread else {"failure": one.failure}
    return {
        "name": network.name,
        "batch": network.batch,
        "engines": found,
        "over": _over(timed),
    }


def _opened(kind: _Subject, engines: Engines, folder: Path, batch: int) -> Opened:
    """Lower a bundle into a folder of its own, and make the engine there."""
    folder.mkdir()
    bundle = replace(kind.bundle, path=folder)
    export_bundle(bundle, (kind.target,), None, Silence(), float16=True)
    return engines.open(bundle, kind.target, batch)


def _unquantised(model: nn.Module, bundle: Bundle) -> Bundle:
    """The same model with every layer in floating point; it is lowered and never written."""
    parameters = {name: value.float().numpy() for name, value in model.named_parameters()}
    return replace(bundle, layers={}, parameters=parameters)


def _errors(found: Prediction, reference: Prediction) -> dict[str, Any]:
    """``|found - reference| / |reference|`` of every image of a batch.

    Raises FloatingPointError on an image that is not finite: its error is no number, which JSON has
    none for, and the engine has failed.
    """
    errors = [relative_error(one, other) for one, other in zip(found, reference, strict=True)]
    bad = [index for index, error in enumerate(errors) if not math.isfinite(error)]
    if bad:
        raise FloatingPointError(f"images {bad} of {len(errors)} are not finite")
    return {"relative_errors": [round(error, 6) for error in errors]}


def _over(timed: Mapping[str, Timed]) -> dict[str, Any]:
    """Times as multiples of the packed engine's."""
    if PACKED_ENGINE not in timed or not timed[PACKED_ENGINE].ms:
        return {}
    return {name: ratio(one.ms, timed[PACKED_ENGINE].ms) for name, one in timed.items() if one.ms}


def _once(make: Callable[[], Prediction]) -> Callable[[], Prediction]:
    kept: list[Prediction] = []

    def get() -> Prediction:
        if not kept:
            kept.append(make())
        return kept[0]

    return get


def _packed_prediction(bundle: Bundle, place: Place, inputs: Arrays) -> Prediction:
    denoiser = GpuDenoiser(bundle, place.gpu, None, torch.float32)
    prediction: Prediction = denoiser(**inputs).cpu().numpy()
    return prediction


def _whole_prediction(
    model: nn.Module, config: Mapping[str, Any], place: Place, inputs: Arrays
) -> Prediction:
    """Full precision, without TensorFloat-32."""
    given = dict(inputs)
    sample, timestep = given.pop("sample"), given.pop(TIMESTEP_INPUT)
    time_ = torch.full((1,), timestep, device=sample.device)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.no_grad():
            moved = nn.Module.to(model, place.gpu.device)
            prediction: Prediction = predict(moved, config, sample, time_, given).cpu().numpy()
    finally:
        torch.backends.cudnn.allow_tf32 = before
    return prediction
