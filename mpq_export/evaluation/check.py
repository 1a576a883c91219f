"""What ``mpq-check`` measures: nodes by equality, the whole model by distance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..architectures import architecture_of
from ..bundle import Bundle
from ..errors import RecipeError, RuntimeUnavailable
from ..pipelines.registry import GENERAL
from ..progress import ProgressReporter
from ..runtimes.denoiser import Denoiser, open_denoiser
from ..runtimes.graph_feeds import graph_feeds
from ..runtimes.names import ENGINE_RUNTIMES, Runtime
from .layer_fidelity import LayerFunction, NodeResult
from .node_fidelity import compare_nodes
from .original import require_same_architecture
from .whole_model import PredictionError, prediction_error

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint
    from ..runtimes.gpu_kernels.torch_gpu import TorchGpu
    from .layer_blame import Blame


@dataclass(frozen=True)
class DenoisingInput:
    """One call of a denoiser: float32 sample ``[B, C, H, W]``, its timestep, conditions."""

    sample: np.ndarray
    timestep: float
    conditions: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CheckReport:
    """Node results in graph order, and whole-model errors (None: not measured).

    ``against_torch`` compares the runtime with the torch reference of the same bundle,
    ``against_original`` with the original checkpoint. ``blame`` says what single layers cost.
    """

    nodes: tuple[NodeResult, ...]
    against_torch: PredictionError | None
    against_original: PredictionError | None
    blame: Blame | None = None

    @property
    def exact(self) -> int:
        """How many nodes equal the reference."""
        return sum(node.equal for node in self.nodes)

    @property
    def overflowed(self) -> int:
        """How many nodes gave infinity or NaN, as float16 graphs do beyond 65504."""
        return sum(node.not_finite > 0 for node in self.nodes)

    @property
    def passed(self) -> bool:
        """Whether every node equals the reference, and all are finite."""
        return self.exact == len(self.nodes) and not self.overflowed

    def worst(self, count: int) -> tuple[NodeResult, ...]:
        """Unequal nodes first, then those with the lowest output signal-to-noise ratio."""
        return tuple(sorted(self.nodes, key=_badness)[:count])


def check_bundle(
    bundle: Bundle,
    runtime: Runtime,
    checkpoint: Checkpoint | None,
    num_steps: int,
    num_images: int,
    seed: int,
    progress: ProgressReporter,
    blamed: int = 0,
) -> CheckReport:
    """Compare a running bundle with the reference.

    With a checkpoint the inputs come from its own trajectory, else from Gaussian noise; ``blamed``
    layers are then restored one by one.

    Raises:
        RecipeError: layers are to be restored and there is no checkpoint to take them from.
        RuntimeUnavailable: the runtime is torch, which runs the reference itself here; or an
            engine, which shows no nodes.
    """
    _require_nodes(runtime)
    if blamed and checkpoint is None:
        raise RecipeError(
            "Layers can only be restored from the original checkpoint",
            where="--blame",
            fix="Give it with --ckpt",
        )
    gpu = _gpu() if runtime is Runtime.TORCH else None
    if checkpoint is not None:
        require_same_architecture(bundle, checkpoint)
    steps = _tried_steps(bundle, num_steps)
    if checkpoint is None:
        inputs = _noise_inputs(bundle, steps, num_images, seed)
        original, layers = None, None
    else:
        inputs, original = _trajectory_inputs(bundle, checkpoint, steps, num_images, seed)
        layers = _original_layers(bundle, checkpoint)
    compared = (
        _graph_nodes(bundle, runtime, inputs, layers)
        if gpu is None
        else _gpu_modules(bundle, gpu, inputs, layers)
    )
    progress.start("nodes", len(bundle.layers))
    nodes = []
    for node in compared:
        nodes.append(node)
        progress.advance()
    predictions = _predictions(open_denoiser(bundle, runtime), inputs)
    reference = _predictions(_reference(bundle), inputs) if _has_torch() else None
    blame = None
    if blamed and checkpoint is not None and original is not None:
        blame = _blame(bundle, checkpoint, nodes, blamed, inputs, original, progress)
    return CheckReport(
        tuple(nodes),
        prediction_error(predictions, reference) if reference is not None else None,
        prediction_error(predictions, original) if original is not None else None,
        blame,
    )


def blame_bundle(
    bundle: Bundle,
    checkpoint: Checkpoint,
    nodes: Sequence[NodeResult],
    blamed: int,
    num_steps: int,
    num_images: int,
    seed: int,
    progress: ProgressReporter,
) -> Blame:
    """Restore ``blamed`` layers after a check: ``nodes`` are what :func:`check_bundle` found with
    this checkpoint, and the steps, images and seed are those of that check."""
    steps = _tried_steps(bundle, num_steps)
    inputs, original = _trajectory_inputs(bundle, checkpoint, steps, num_images, seed)
    return _blame(bundle, checkpoint, nodes, blamed, inputs, original, progress)


def noise_feeds(
    bundle: Bundle, num_steps: int, num_images: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """What :func:`check_bundle` feeds a lowered graph without a checkpoint, one entry per step."""
    inputs = _noise_inputs(bundle, _tried_steps(bundle, num_steps), num_images, seed)
    return [_feeds(bundle, given) for given in inputs]


def _blame(
    bundle: Bundle,
    checkpoint: Checkpoint,
    nodes: Sequence[NodeResult],
    blamed: int,
    inputs: Sequence[DenoisingInput],
    original: Sequence[np.ndarray],
    progress: ProgressReporter,
) -> Blame:
    from .layer_blame import blame_layers

    def predict(denoiser: Denoiser[Any]) -> list[np.ndarray]:
        return _predictions(denoiser, inputs)

    return blame_layers(bundle, checkpoint.model, nodes, blamed, predict, original, progress)


def _tried_steps(bundle: Bundle, num_steps: int) -> np.ndarray:
    return np.unique(np.linspace(0, len(bundle.timesteps) - 1, num_steps).round().astype(int))


def _feeds(bundle: Bundle, given: DenoisingInput) -> dict[str, np.ndarray]:
    return graph_feeds(
        bundle.model_config, bundle.timesteps, given.sample, given.timestep, given.conditions
    )


def _badness(node: NodeResult) -> tuple[float, float]:
    snr = node.output_snr_db if node.output_snr_db is not None else np.inf
    return (-node.differing - node.not_finite, snr)


def _has_torch() -> bool:
    return find_spec("torch") is not None and find_spec("diffusers") is not None


def _noise_inputs(
    bundle: Bundle, steps: np.ndarray, num_images: int, seed: int
) -> list[DenoisingInput]:
    rng = np.random.default_rng(seed)
    architecture = architecture_of(bundle.model_config)
    shape = (num_images, *architecture.sample_shape(bundle.model_config))
    conditions = architecture.conditions(bundle.model_config)
    return [
        DenoisingInput(
            rng.standard_normal(shape, dtype=np.float32),
            float(bundle.timesteps[step]),
            {spec.name: spec.draw(num_images, rng) for spec in conditions},
        )
        for step in steps
    ]


def _trajectory_inputs(
    bundle: Bundle, checkpoint: Checkpoint, steps: np.ndarray, num_images: int, seed: int
) -> tuple[list[DenoisingInput], list[np.ndarray]]:
    """Inputs along the original's trajectory, and its predictions for them."""
    from ..training.trajectories import full_precision_trajectory

    trajectory = full_precision_trajectory(
        checkpoint.model,
        checkpoint.model_config,
        bundle.scheduler_config,
        len(bundle.timesteps),
        num_images,
        seed,
        _conditions(bundle, num_images),
    )
    inputs, predictions = [], []
    for step in trajectory:
        if step.entry in steps:
            conditions = {name: value.numpy() for name, value in step.conditions.items()}
            inputs.append(DenoisingInput(step.sample.numpy(), float(step.timestep), conditions))
            predictions.append(step.prediction.numpy())
    return inputs, predictions


def _conditions(bundle: Bundle, num_images: int) -> Mapping[str, Any] | None:
    """What a whole pipeline hands to its denoiser; None for others, whose conditions are drawn."""
    if bundle.quantization.family != GENERAL:
        return None
    from ..pipelines.general.text_conditions import default_prompts, text_conditions

    conditions = text_conditions(
        bundle.path, bundle.model_config, bundle.scheduler_config, default_prompts(), num_images
    )
    return conditions and {name: value[:num_images] for name, value in conditions.items()}


def _original_layers(bundle: Bundle, checkpoint: Checkpoint) -> dict[str, LayerFunction]:
    import torch

    from ..core.channel_parts import module_of, part_name
    from ..core.layers import Quantizable, part_of

    def as_function(module: torch.nn.Module) -> LayerFunction:
        return lambda x: module(torch.from_numpy(x)).numpy()

    def original(name: str) -> torch.nn.Module:
        if name not in bundle.channels:
            return checkpoint.model.get_submodule(name)
        module = cast(Quantizable, checkpoint.model.get_submodule(module_of(name)))
        return part_of(module, bundle.channels[name], name == part_name(module_of(name), 0))

    return {name: as_function(original(name)) for name in bundle.layers}


def _graph_nodes(
    bundle: Bundle,
    runtime: Runtime,
    inputs: Sequence[DenoisingInput],
    layers: Mapping[str, LayerFunction] | None,
) -> Iterator[NodeResult]:
    return compare_nodes(bundle, runtime, [_feeds(bundle, given) for given in inputs], layers)


def _gpu_modules(
    bundle: Bundle,
    gpu: TorchGpu,
    inputs: Sequence[DenoisingInput],
    layers: Mapping[str, LayerFunction] | None,
) -> Iterator[NodeResult]:
    from ..runtimes.gpu_denoiser import GpuDenoiser
    from .module_fidelity import compare_modules

    denoiser = GpuDenoiser(bundle, gpu, None)
    return compare_modules(
        denoiser.model, bundle.layers, lambda: _predictions(denoiser, inputs), layers
    )


def _gpu() -> TorchGpu:
    """Where ``--runtime torch`` has something to compare with the reference."""
    from ..runtimes.gpu_choice import choose_gpu

    gpu = choose_gpu()
    if isinstance(gpu, str):
        raise RuntimeUnavailable(
            "The torch runtime is the reference itself here, which has nothing to be compared with",
            where="--runtime",
            why=gpu[:1].upper() + gpu[1:],
            fix="Choose ort, ort-portable, ort-functions or onnx; or check on a machine with a GPU",
        )
    return gpu


def _require_nodes(runtime: Runtime) -> None:
    if runtime in ENGINE_RUNTIMES:
        raise RuntimeUnavailable(
            "An engine's nodes cannot be read out",
            where=f"--runtime {runtime.value}",
            why="TensorRT fuses them",
            fix="Compare its predictions by onnx/trt/tools/compare.py (docs/tensorrt.md), and the "
            "packed layers by --runtime ort or torch",
        )


def _reference(bundle: Bundle) -> Denoiser[Any]:
    from ..runtimes.torch_denoiser import TorchDenoiser

    return TorchDenoiser(bundle)


def _predictions(denoiser: Denoiser[Any], inputs: Sequence[DenoisingInput]) -> list[np.ndarray]:
    if denoiser.array_type is np.ndarray:
        return [denoiser(i.sample, i.timestep, **i.conditions) for i in inputs]
    import torch

    return [
        denoiser(
            torch.from_numpy(i.sample),
            i.timestep,
            **{name: torch.from_numpy(value) for name, value in i.conditions.items()},
        ).numpy()
        for i in inputs
    ]
