"""Images from a bundle: its family's diffusers pipeline around a denoiser of the chosen runtime,
or, where torch is not installed, the same steps in numpy."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle, read_bundle
from .errors import RecipeError, RuntimeUnavailable
from .pipeline_folder import DENOISERS, further_components, verified_index
from .pipelines.registry import GENERAL, DrawRequest, family_registration, load_family
from .progress import ProgressReporter
from .runtimes.denoiser import Denoiser, open_denoiser
from .runtimes.names import Runtime
from .runtimes.selection import Selection
from .samplers.registry import is_known, open_sampler


class SamplingLoop(StrEnum):
    """Who takes the sampler's steps."""

    DIFFUSERS = "diffusers"
    NUMPY = "numpy"


def loop_of(bundle: Bundle) -> SamplingLoop:
    """Diffusers where it and torch are installed, else numpy.

    Diffusers' pipelines of a denoiser alone (DDIM, DDPM) bring a scheduler of their own, or do not
    scale as others need: the steps are ours wherever we know the bundle's scheduler.
    """
    if not all(find_spec(package) is not None for package in ("torch", "diffusers")):
        return SamplingLoop.NUMPY
    known = is_known(bundle.scheduler_config) and _is_alone(bundle)
    return SamplingLoop.NUMPY if known else SamplingLoop.DIFFUSERS


def untabled_steps(bundle: Bundle, num_steps: int) -> list[float]:
    """The timesteps of a walk at which a bundle that holds temporal features in a table takes those
    of the nearest one; none for other bundles, which are told every timestep."""
    if bundle.features is None:
        return []
    if loop_of(bundle) is SamplingLoop.NUMPY:
        visited = open_sampler(bundle.scheduler_config, num_steps).timesteps
    else:
        from .schedulers import build_scheduler, scheduler_at_work

        scheduler = build_scheduler(bundle.scheduler_config)
        with scheduler_at_work():
            scheduler.set_timesteps(num_steps)
        visited = scheduler.timesteps
    wanted = np.unique(np.asarray(visited, np.float64))
    # Tables are found by whole timesteps.
    return wanted[~np.isin(np.rint(wanted), bundle.timesteps)].tolist()


def from_pretrained(
    bundle: str | Path, runtime: Runtime | str = Runtime.ORT, **components: Any
) -> Any:
    """The diffusers pipeline of a bundle's folder, its denoiser running in ``runtime``.

    The pipeline is diffusers' own class, called as ever: ``generator=``, ``num_inference_steps=``,
    callbacks. ``components`` take the place of the bundle's, such as ``scheduler=`` or ``vae=``.

    Raises BundleError for a damaged folder, RuntimeUnavailable for a runtime that is not here,
    RecipeError for what is no component, or would take the quantised model's place.
    """
    for name in ("torch_dtype", "dtype"):
        if name in components:
            raise RecipeError(
                f"A bundle's pipeline takes no '{name}'",
                where=name,
                why="Its runtime chooses the denoiser's types; other components are in float32",
                fix="Leave it out, and convert single components: pipeline.vae.to(torch.bfloat16)",
            )
    for name in DENOISERS:
        if name in components:
            raise RecipeError(
                f"'{name}' would take the quantised model's place",
                where=name,
                why="The bundle would not run at all",
                fix="Leave it out; or hand mpq_export.sampling.quantized_model(bundle) to the "
                "from_pretrained of a diffusers pipeline",
            )
    pipeline = open_pipeline(read_bundle(bundle), Runtime(runtime))
    unknown = sorted(set(components) - set(pipeline.components))
    if unknown:
        raise RecipeError(
            f"The pipeline has no component '{unknown[0]}'",
            where=type(pipeline).__name__,
            why=f"It has {', '.join(sorted(pipeline.components))}",
            fix="Leave it out, or hand over one of these",
        )
    pipeline.register_modules(**components)
    return pipeline


def quantized_model(bundle: str | Path, runtime: Runtime | str = Runtime.ORT) -> Any:
    """A bundle's denoiser as a diffusers model: ``pipeline.unet = quantized_model("out/b")``.

    For the pipeline that the checkpoint came from, in the place of its UNet or transformer.
    """
    from .pipelines.denoiser_module import DenoiserModule

    return DenoiserModule(open_denoiser(read_bundle(bundle), Runtime(runtime)))


def open_pipeline(bundle: Bundle, runtime: Runtime) -> Any:
    """The whole diffusers pipeline of a bundle, its denoiser running in ``runtime``.

    The one call that opens what ``mpq-export`` made of a pipeline folder.
    """
    return pipeline_around(bundle, open_denoiser(bundle, runtime))


def pipeline_around(bundle: Bundle, denoiser: Denoiser[Any]) -> Any:
    """The pipeline of a bundle's family, with any denoiser in the model's place."""
    from .pipelines.denoiser_module import DenoiserModule

    family = load_family(bundle.quantization.family)
    return family.build_pipeline(DenoiserModule(denoiser), bundle.scheduler_config, bundle.path)


def draw_images(
    bundle: Bundle,
    runtime: Runtime,
    request: DrawRequest,
    progress: ProgressReporter,
    on_drawn: Callable[[Selection], None] = lambda _: None,
) -> np.ndarray:
    """Float32 ``[N, C, H, W]`` in [0, 1]; the same seed gives the same noise in every runtime,
    with and without torch. ``on_drawn`` is told what has run them."""
    images, denoiser = _LOOPS[loop_of(bundle)](bundle, runtime, request, progress)
    on_drawn(denoiser.selection)
    return images


def _draw_with_diffusers(
    bundle: Bundle, runtime: Runtime, request: DrawRequest, progress: ProgressReporter
) -> tuple[np.ndarray, Denoiser[Any]]:
    from .schedulers import sampling_schedule

    sampling_schedule(bundle.scheduler_config, request.num_steps)
    family = load_family(bundle.quantization.family)
    denoiser = open_denoiser(bundle, runtime)
    pipeline = pipeline_around(bundle, denoiser)
    progress.start("sample", request.num_images)
    return np.asarray(family.draw(pipeline, request, progress.advance)), denoiser


def _draw_with_numpy(
    bundle: Bundle, runtime: Runtime, request: DrawRequest, progress: ProgressReporter
) -> tuple[np.ndarray, Denoiser[Any]]:
    from .numpy_sampling import draw, labels_in_turn

    _require_drawable_without_torch(bundle)
    denoiser = numpy_denoiser(bundle, open_denoiser(bundle, runtime), request)
    labels = labels_in_turn(bundle.model_config, range(request.num_images))
    progress.start("sample", request.num_images)
    images = draw(
        denoiser,
        bundle.scheduler_config,
        labels,
        request.num_images,
        request.num_steps,
        request.seed,
        progress.advance,
    )
    return images, denoiser


def numpy_denoiser(
    bundle: Bundle, denoiser: Denoiser[Any], request: DrawRequest
) -> Denoiser[np.ndarray]:
    """A denoiser for the steps in numpy.

    Raises RuntimeUnavailable where the bundle's images need torch, RecipeError where the request
    is for a text model.
    """
    _require_drawable_without_torch(bundle)
    request.without_text(str(bundle.quantization.family))
    if denoiser.array_type is np.ndarray:
        return denoiser
    from .runtimes.torch_arrays import NumpyDenoiser

    return NumpyDenoiser(denoiser)


def _require_drawable_without_torch(bundle: Bundle) -> None:
    family = family_registration(bundle.quantization.family)
    if not (family.pixel_space or _is_alone(bundle)):
        raise RuntimeUnavailable(
            f"Drawing images of the family '{family.name}' needs torch and diffusers, which are "
            "not installed",
            why="Its pipeline has further models, such as a text encoder or a VAE",
            fix="Install them with: pip install 'mpq-export[cpu]'; or call the bundle's Denoiser "
            "from a pipeline of your own",
        )


def _is_alone(bundle: Bundle) -> bool:
    """Whether a general pipeline has no model beside its denoiser."""
    general = bundle.quantization.family == GENERAL
    return general and not further_components(verified_index(bundle.path))


_LOOPS = {
    SamplingLoop.DIFFUSERS: _draw_with_diffusers,
    SamplingLoop.NUMPY: _draw_with_numpy,
}
