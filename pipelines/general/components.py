"""The components of a pipeline folder, loaded without running anything the folder brings.

Classes come from the installed diffusers and transformers alone, weights from safetensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch

from ...errors import BundleError, missing_package
from ...pipeline_folder import DENOISERS, INDEX, SCHEDULER, further_components


def build(folder: Path, index: Mapping[str, Any], denoiser: Any, scheduler: Any) -> Any:
    """The pipeline that ``index`` describes, around a denoiser and a scheduler.

    ``folder`` holds the further components. They run in float32 on the CPU.
    """
    cls = _pipeline_class(folder, index)
    own = {SCHEDULER: scheduler, **{name: denoiser for name in DENOISERS if name in index}}
    loaded = {name: _load(folder, name, index[name]) for name in further_components(index)}
    accepted = inspect.signature(cls.__init__).parameters
    absent = {name: None for name in accepted if name in index and name not in own | loaded}
    plain = {
        name: value
        for name, value in index.items()
        if name in accepted and not isinstance(value, list)
    }
    try:
        pipeline = cls(**{**absent, **plain, **loaded, **own})
    except Exception as error:  # components that fit no pipeline raise anything
        raise BundleError(
            "The pipeline cannot be built", where=folder / INDEX, why=str(error).partition("\n")[0]
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pipeline_class(folder: Path, index: Mapping[str, Any]) -> Any:
    name = str(index.get("_class_name"))
    cls = getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise BundleError(
            f"'{name}' is not a pipeline of the installed diffusers",
            where=folder / INDEX,
            why="Pipelines that bring their own code are not run",
        )
    return cls


def _load(folder: Path, name: str, entry: Any) -> Any:
    library, class_name = entry
    cls = _component_class(folder, str(library), str(class_name))
    options: dict[str, Any] = {"local_files_only": True}
    if issubclass(cls, torch.nn.Module):
        options["use_safetensors"] = True
    try:
        component = cls.from_pretrained(folder / name, **options)  # type: ignore[attr-defined]
    except Exception as error:  # damaged components raise anything
        raise BundleError(
            f"The component '{name}' cannot be loaded",
            where=folder / name,
            why=str(error).partition("\n")[0],
        ) from error
    return component.float().eval() if isinstance(component, torch.nn.Module) else component


def _component_class(folder: Path, library: str, class_name: str) -> type:
    """A model, tokenizer or processor class; ``library`` may be one of diffusers' pipelines."""
    bases: list[type] = [diffusers.ModelMixin]
    if library == "diffusers":
        module: Any = diffusers
    else:
        try:
            import transformers
        except ImportError as error:
            raise missing_package("transformers", "text", "This pipeline") from error
        transformers.utils.logging.disable_progress_bar()  # components are loaded in a second
        bases += [
            transformers.PreTrainedModel,
            transformers.PreTrainedTokenizerBase,
            transformers.FeatureExtractionMixin,
            transformers.ImageProcessingMixin,
        ]
        known = hasattr(diffusers.pipelines, library) and library.isidentifier()
        inner = import_module(f"diffusers.pipelines.{library}") if known else None
        module = transformers if library == "transformers" else inner
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, tuple(bases))):
        raise BundleError(
            f"The component class {library}.{class_name} is not known",
            where=folder / INDEX,
            why="Components are models, tokenizers and processors of diffusers and transformers",
        )
    return cls
