"""The components of a pipeline folder, loaded without running anything the folder brings.

Classes come from the installed diffusers and transformers alone, weights from safetensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch

from ...empty_model import at_most
from ...errors import BundleError, UserError, missing_package
from ...pipeline_folder import DENOISERS, INDEX, SCHEDULER, further_components
from .component_files import require_sound

_PLAIN_ATTENTION = {"attn_implementation": "eager"}
"""transformers would else take the config's word, which may name a kernel to fetch."""
_LOADINGS = 2
"""How often a library may make each tensor: empty, and filled."""


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
            "The pipeline cannot be built", where=folder / INDEX, why=first_line(error)
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
    cls: Any = _component_class(folder, library, class_name)
    try:
        if issubclass(cls, torch.nn.Module):
            return _load_model(cls, folder / name)
        return cls.from_pretrained(folder / name, local_files_only=True)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damaged components raise anything
        raise BundleError(
            f"The component '{name}' cannot be loaded",
            where=folder / name,
            why=first_line(error),
        ) from error


def _load_model(cls: Any, folder: Path) -> torch.nn.Module:
    """A model whose weights are all there, never larger than its files."""
    stored = require_sound(folder)
    options: dict[str, Any] = {} if issubclass(cls, diffusers.ModelMixin) else _PLAIN_ATTENTION
    with at_most(_LOADINGS * stored.tensors, _LOADINGS * stored.elements):
        model, info = cls.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    lacking = [*info["missing_keys"], *info["mismatched_keys"]]
    if lacking:
        raise BundleError(
            "The component's weights do not fit its config",
            where=folder,
            why=f"{len(lacking)} are missing or have another shape: {lacking[:3]}",
        )
    loaded: torch.nn.Module = model.float().eval()
    return loaded


def called(pipeline: Any, **arguments: Any) -> Any:
    """What a pipeline returns; whatever else it raises becomes a :class:`BundleError`."""
    try:
        return pipeline(**arguments)
    except (UserError, MemoryError, Heard):
        raise
    except Exception as error:  # components that do not fit one another raise anything
        raise BundleError(
            f"{type(pipeline).__name__} cannot be run", where=INDEX, why=first_line(error)
        ) from error


class Heard(Exception):
    """Ends a pipeline's run as soon as its denoiser was called."""

    def __init__(self, conditions: dict[str, torch.Tensor]) -> None:
        super().__init__("the denoiser was called")
        self.conditions = conditions


def first_line(error: BaseException) -> str:
    """The first line of an error, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
        own = getattr(diffusers.pipelines, library, None)
        module = transformers if library == "transformers" else own
        if not isinstance(module, ModuleType):
            module = None
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, tuple(bases))):
        raise BundleError(
            f"The component class {library}.{class_name} is not known",
            where=folder / INDEX,
            why="Components are models, tokenizers and processors of diffusers and transformers",
        )
    return cls
