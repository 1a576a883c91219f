"""What a run refuses before anything is loaded, drawn or timed."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...bundle import Bundle
from ...errors import BundleError, RecipeError, UserError
from ...files import MANIFEST, parse_json
from ...pipeline_folder import PIPELINE, verified_index
from ...pipelines.registry import GENERAL, DrawRequest, family_registration
from ...samplers.registry import open_sampler
from ...sampling import SamplingLoop, loop_of

_FIX = "Compare bundles of one checkpoint; run the command once for each"


def require_one_model(bundles: Sequence[Bundle]) -> None:
    """Raise UserError unless all are of one checkpoint, as far as they say what they were made of:
    one model, one scheduler, one family, the same weights and further components."""
    first = bundles[0]
    for other in bundles[1:]:
        same = (
            _public(first.model_config) == _public(other.model_config)
            and _public(first.scheduler_config) == _public(other.scheduler_config)
            and first.quantization.family == other.quantization.family
        )
        if not same:
            raise UserError(
                "The bundles are of different models",
                where=other.path,
                why=f"Its model, scheduler or family is not that of {first.path}",
                fix=_FIX,
            )
        if _components(first) != _components(other):
            raise UserError(
                "The bundles are of different pipelines",
                where=other.path,
                why=f"Files of {PIPELINE}/ are not those of {first.path}",
                fix=_FIX,
            )
    known = [bundle for bundle in bundles if bundle.quantization.source_sha256 is not None]
    for other in known[1:]:
        if other.quantization.source_sha256 != known[0].quantization.source_sha256:
            raise UserError(
                "The bundles were made from different weights",
                where=other.path,
                why=f"It was made from '{other.quantization.source}', {known[0].path} from "
                f"'{known[0].quantization.source}'",
                fix=_FIX,
            )


def whose_weights_are_known(bundles: Sequence[Bundle]) -> Bundle:
    """The one of bundles of one model that a checkpoint is to be held against for all of them."""
    known = (bundle for bundle in bundles if bundle.quantization.source_sha256 is not None)
    return next(known, bundles[0])


def require_drawable(bundle: Bundle, request: DrawRequest) -> None:
    """Raise an error of ours where the bundle's scheduler or pipeline cannot draw what is asked.

    What only shows when its components are loaded, the rows say.
    """
    family = family_registration(bundle.quantization.family)
    loop = loop_of(bundle)
    if loop is SamplingLoop.NUMPY:
        open_sampler(bundle.scheduler_config, request.num_steps)
    else:
        from ...schedulers import sampling_schedule

        sampling_schedule(bundle.scheduler_config, request.num_steps)
    if family.name != GENERAL or loop is SamplingLoop.NUMPY:
        request.without_text(family.name)
    else:
        _require_taken(verified_index(bundle.path), request)


def _require_taken(index: Any, request: DrawRequest) -> None:
    """As the pipeline's class takes prompts and guidance; unknown classes are refused later."""
    import diffusers

    name = str(index.get("_class_name"))
    cls = getattr(diffusers, name, None)
    if cls is None:
        return
    accepted = inspect.signature(cls.__call__).parameters
    if "prompt" in accepted and not request.prompts:
        raise RecipeError(f"{name} draws from a text", where="--prompt", fix="Give one")
    if "prompt" not in accepted and request.prompts:
        raise RecipeError(f"{name} takes no text", where="--prompt", fix="Leave it out")
    if "guidance_scale" not in accepted and request.guidance is not None:
        raise RecipeError(f"{name} takes no guidance", where="--guidance", fix="Leave it out")


def require_outputs(out: Path, files: Sequence[str]) -> None:
    """Make the folder, and raise UserError where these files could not be written into it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"x")
    except OSError as error:
        raise UserError(
            "The report cannot be written",
            where=out,
            why=error.strerror or str(error),
            fix="Name a folder that you may write into with --out",
        ) from error
    taken = [out / name for name in files if (out / name).is_dir()]
    if taken:
        raise UserError(
            "A folder is where a file of the report would be",
            where=taken[0],
            fix="Choose another --name or --out",
        )


def _components(bundle: Bundle) -> Any:
    """The files of the whole pipeline with their hashes, as its manifest says; None without."""
    manifest = bundle.path / PIPELINE / MANIFEST
    if not manifest.is_file():
        return None
    return parse_json(manifest.read_bytes(), manifest, BundleError).get("files")


def _public(config: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if not key.startswith("_")}
