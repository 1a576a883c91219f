"""A bundle in TensorRT or TensorRT-RTX, without torch: the engine that ``mpq-build`` has made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...architectures import architecture_of
from ...bundle import Bundle
from ...conditions import BATCH, TOKENS
from ...errors import BundleError
from ...lowering.graph_inputs import PREDICTION, SAMPLE, STEP_INDEX, TIMESTEP
from ...lowering.names import Target
from ..cuda.stream import Stream
from ..graph_feeds import graph_feeds
from ..names import Runtime
from ..selection import Selection
from .engine_files import build_command
from .loaded_engine import LoadedEngine, load_engine
from .profiled import EngineProfile, profiled_steps
from .runtime_cache import RuntimeCache
from .steps import BoundStep, Scratch, Shapes, Step

_MOST_SHAPES = 8
"""Sets of shapes whose buffers and graphs are kept."""


class TensorRtDenoiser:
    """Arrays are ``numpy.ndarray``.

    A batch larger than the engine's largest runs in parts: images do not depend on one another.

    Args:
        bundle: the bundle.
        loaded: its engine.
    """

    array_type: type = np.ndarray

    def __init__(self, bundle: Bundle, loaded: LoadedEngine) -> None:
        """Raises BundleError where the engine takes other inputs than the bundle's model."""
        self.model_config = bundle.model_config
        self._timesteps, self._loaded, self._folder = bundle.timesteps, loaded, bundle.path
        self._shapes = loaded.record.identity.shapes
        specs = architecture_of(bundle.model_config).conditions(bundle.model_config)
        self._per_image = {SAMPLE, *(spec.name for spec in specs)}
        self._with_tokens = {s.name for s in specs if TOKENS in s.free_axes.values()}
        self._taken = _signature(loaded, self._per_image)
        self._stream = Stream(loaded.driver)
        self._scratch, self._cache = Scratch(loaded), RuntimeCache(loaded)
        self._steps: OrderedDict[Shapes, Step] = OrderedDict()
        self._failure: str | None = None

    @property
    def selection(self) -> Selection:
        """What runs; after the first call also whether a step could be recorded."""
        runtime = Runtime(self._loaded.record.identity.runtime)
        how = "CUDA graphs" if self._failure is None else f"no CUDA graph: {self._failure}"
        note = f"{self._loaded.record.identity.tensorrt}, {self._loaded.plugin}, {how}"
        return Selection(runtime, runtime, note)

    def __call__(
        self, sample: NDArray[np.float32], timestep: float, **conditions: NDArray[np.generic]
    ) -> NDArray[np.float32]:
        """Predict for float32 ``[B, C, H, W]``.

        Raises:
            BundleError: the engine was not built for such a batch or number of tokens.
            RuntimeUnavailable: TensorRT or the GPU refuses the step.
        """
        feeds = self._feeds(sample, timestep, conditions)
        least, _, largest = self._shapes[BATCH]
        images = len(feeds[SAMPLE])
        self._require_sizes(feeds)
        self._loaded.context.make_current()  # this thread may be another than the opening one
        parts = []
        for start in range(0, images, largest):
            # The last part begins earlier where it would be smaller than the engine's smallest.
            first = min(start, max(0, images - least))
            part = self._predict(
                {
                    name: value[first : start + largest] if name in self._per_image else value
                    for name, value in feeds.items()
                }
            )
            parts.append(part[start - first :])
        return np.concatenate(parts)

    def profiled(
        self,
        sample: NDArray[np.float32],
        timestep: float,
        warm_up: int,
        steps: int,
        **conditions: NDArray[np.generic],
    ) -> EngineProfile:
        """Layer by layer, what ``steps`` steps on one input take after those of the warm-up.

        Raises as a call, and BundleError where the engine takes fewer images at once.
        """
        feeds = self._feeds(sample, timestep, conditions)
        self._require_sizes(feeds)
        if len(sample) > self._shapes[BATCH][2]:
            raise self._too_small(BATCH, len(sample))
        self._loaded.context.make_current()
        bound = self._bound(_shapes_of(feeds))
        return profiled_steps(self._loaded, bound, self._stream, feeds, warm_up, steps)

    def _feeds(
        self,
        sample: NDArray[np.float32],
        timestep: float,
        conditions: Mapping[str, NDArray[np.generic]],
    ) -> dict[str, NDArray[np.generic]]:
        """What the engine takes of a step's inputs."""
        feeds = graph_feeds(self.model_config, self._timesteps, sample, timestep, conditions)
        return {name: value for name, value in feeds.items() if name in self._taken}

    def _bound(self, shapes: Shapes) -> BoundStep:
        return BoundStep(self._loaded, self._scratch, self._cache, shapes, self._stream)

    def _predict(self, feeds: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        shapes = _shapes_of(feeds)
        if (step := self._steps.get(shapes)) is None:
            if len(self._steps) >= _MOST_SHAPES:
                self._steps.popitem(last=False)
            step = Step(self._bound(shapes), self._stream)
            self._cache.keep()
            self._steps[shapes] = step
            self._failure = self._failure or step.failure
        self._steps.move_to_end(shapes)
        return step(feeds)

    def _require_sizes(self, feeds: Mapping[str, NDArray[np.generic]]) -> None:
        sizes = [(BATCH, len(feeds[SAMPLE]))]
        sizes += [(TOKENS, feeds[name].shape[1]) for name in sorted(self._with_tokens)]
        for axis, size in sizes:
            least, _, largest = self._shapes[axis]
            # A larger batch runs in parts.
            if size < least or (axis != BATCH and size > largest):
                raise self._too_small(axis, size)

    def _too_small(self, axis: str, size: int) -> BundleError:
        least, _, largest = self._shapes[axis]
        return BundleError(
            "The engine was not built for these sizes",
            where=self._loaded.record.plan,
            why=f"{axis} is {size}, it takes {least} to {largest}",
            fix=f"Build another: {self._wider(axis, size)}",
        )

    def _wider(self, axis: str, size: int) -> str:
        """What builds an engine that takes this size, too, and is the one taken from then on."""
        own = self._loaded.record.identity
        least, usual, largest = self._shapes[axis]
        shapes = {**self._shapes, axis: [min(size, least), usual, max(size, largest)]}
        return build_command(self._folder, own.target, own.runtime, shapes)


def _shapes_of(feeds: Mapping[str, NDArray[np.generic]]) -> Shapes:
    return tuple((name, value.shape) for name, value in sorted(feeds.items()))


def _signature(loaded: LoadedEngine, per_image: set[str]) -> set[str]:
    """The engine's tensors; raises BundleError unless they are the model's.

    TensorRT may leave out a timestep that nothing reads, as where all its features are cached.
    """
    engine = loaded.engine
    found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    expected = {TIMESTEP, STEP_INDEX, PREDICTION, *per_image}
    if found | {TIMESTEP} != expected or BATCH not in loaded.record.identity.shapes:
        raise BundleError(
            "The engine is not of the bundle's model class",
            where=loaded.record.plan,
            why=f"It has {sorted(found)}, not {sorted(expected)}",
            fix="Build it again: mpq-build BUNDLE",
        )
    return found


def open_tensorrt(
    bundle: Bundle, runtime: Runtime, target: Target = Target.TRT
) -> TensorRtDenoiser:
    """The bundle on its engine for this machine, ``trt-int8`` for the plain one; raises as
    ``load_engine``."""
    return TensorRtDenoiser(bundle, load_engine(bundle, runtime, target))
