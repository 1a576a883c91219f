"""Attacks through the other components of a whole pipeline, in bundles and in checkpoints."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file, save_file

from mpq_export.files import MANIFEST, write_manifest
from mpq_export.pipeline_folder import INDEX, PIPELINE, files_to_copy, verified_index

from .attack import CORRECT, EITHER, REFUSED, Attack, Place

AREA = "pipelines"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def open_components(folder: Path) -> None:
    """The door: the components of a bundle, as ``mpq-sample`` loads them."""
    from diffusers import DDIMScheduler
    from mpq_export.pipelines.general.components import build

    build(folder / PIPELINE, verified_index(folder), None, DDIMScheduler())


def list_components(folder: Path) -> None:
    """The door: what an export would copy of a checkpoint's pipeline."""
    for path in files_to_copy(folder).values():
        assert path.resolve().is_relative_to(folder.resolve())


def _pipeline(folder: Path, canary: Path) -> None:
    """A pipeline of a good VAE, beside it code that would create the canary."""
    from diffusers import AutoencoderKL

    folder.mkdir(parents=True)
    index = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / INDEX).write_text(json.dumps(index))
    AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    ).save_pretrained(folder / "vae")  # fmt: skip
    (folder / "vae" / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')\n")


def _sign(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    write_manifest(folder, [path.relative_to(folder).as_posix() for path in files])


def _bundle(edit: Callable[[Path], object], sign: bool = True) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        folder = place.folder / "bundle"
        _pipeline(folder / PIPELINE, place.canary)
        if sign:
            edit(folder / PIPELINE)
        _sign(folder / PIPELINE)
        if not sign:
            edit(folder / PIPELINE)
        return folder

    return make


def _checkpoint(edit: Callable[[Path], object]) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        folder = place.folder / "checkpoint"
        _pipeline(folder, place.canary)
        edit(folder)
        return folder

    return make


def _index(**change: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps(index | change))

    return edit


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def _pickled_weights(folder: Path) -> None:
    canary = folder.parent / "canary"
    if folder.name == PIPELINE:
        canary = folder.parent.parent / "canary"
    (folder / "vae" / WEIGHTS).unlink()
    weights = folder / "vae" / "diffusion_pytorch_model.bin"
    weights.write_bytes(pickle.dumps(_Code(canary)))


def _broken_weights(folder: Path) -> None:
    (folder / "vae" / WEIGHTS).write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def _missing_weights(folder: Path) -> None:
    tensors = load_file(folder / "vae" / WEIGHTS)
    tensors.pop("decoder.conv_in.weight")
    save_file(tensors, folder / "vae" / WEIGHTS)


def _shards_outside(folder: Path) -> None:
    weights = folder / "vae" / WEIGHTS
    names = list(load_file(weights))
    weights.rename(folder.parent / WEIGHTS)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, f"../../{WEIGHTS}")}
    (folder / "vae" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def _asking(**change: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "vae" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return edit


CONFIGS: dict[str, dict[str, object]] = {
    "a million channels": {"block_out_channels": [1 << 20]},
    "a billion layers": {"layers_per_block": 10**9},
    "custom code": {"auto_map": {"AutoModel": "modeling_evil.Evil"}},
    "a kernel to fetch": {"attn_implementation": "evil/kernel"},
    "a quantiser to import": {"quantization_config": {"quant_method": "evil"}},
    "no groups": {"norm_num_groups": 0},
    "another class": {"_class_name": "../Evil"},
}


def _linked(name: str, target: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return edit


CLASSES: dict[str, object] = {
    "os.system": ["os", "system"],
    "builtins.eval": ["builtins", "eval"],
    "a class of its own file": ["modeling_evil", "Evil"],
    "transformers.pipeline": ["transformers", "pipeline"],
    "an AutoModel": ["transformers", "AutoModel"],
    "a module's private name": ["diffusers", "__dict__"],
    "a library that climbs": ["diffusers.pipelines.stable_diffusion", "StableDiffusionPipeline"],
    "a pipeline as a component": ["diffusers", "StableDiffusionPipeline"],
    "three words": ["diffusers", "AutoencoderKL", "x"],
    "a number": ["diffusers", 5],
}
PIPELINES = ("os", "Evil", "__dict__", "AutoPipelineForText2Image", "UNet2DModel", None, ["x"], "")

ATTACKS = [
    Attack(AREA, "bundle: code beside a component", _bundle(lambda _: None), open_components,
           CORRECT),
    *(
        Attack(AREA, f"bundle: a component's config with {what}", _bundle(_asking(**change)),
               open_components, EITHER if what == "another class" else REFUSED)
        for what, change in CONFIGS.items()
    ),
    Attack(AREA, "bundle: weights that lack a tensor", _bundle(_missing_weights), open_components),
    Attack(AREA, "bundle: shards outside the folder", _bundle(_shards_outside), open_components),
    *(
        Attack(AREA, f"bundle: a component of class {what}", _bundle(_index(vae=entry)),
               open_components)
        for what, entry in CLASSES.items()
    ),
    *(
        Attack(AREA, f"bundle: the pipeline class {name!r}", _bundle(_index(_class_name=name)),
               open_components)
        for name in PIPELINES
    ),
    Attack(AREA, "bundle: a component that climbs",
           _bundle(_index(**{"../../vae": ["diffusers", "AutoencoderKL"]})), open_components),
    Attack(AREA, "bundle: pickled weights", _bundle(_pickled_weights), open_components),
    Attack(AREA, "bundle: a safetensors header of 2**62 bytes", _bundle(_broken_weights),
           open_components),
    Attack(AREA, "bundle: a linked config", _bundle(_linked("vae/config.json", "/etc/passwd")),
           open_components),
    Attack(AREA, "bundle: a file that no manifest lists",
           _bundle(lambda p: (p / "vae" / "more.json").write_text("{}"), sign=False),
           open_components),
    Attack(AREA, "bundle: a changed config",
           _bundle(lambda p: (p / "vae" / "config.json").write_text("{}"), sign=False),
           open_components),
    Attack(AREA, "bundle: a lost component",
           _bundle(lambda p: shutil.rmtree(p / "vae"), sign=False), open_components),
    Attack(AREA, "checkpoint: pickled weights", _checkpoint(_pickled_weights), list_components),
    Attack(AREA, "checkpoint: a config that links outside",
           _checkpoint(_linked("vae/config.json", "/etc/passwd")), list_components),
    Attack(AREA, "checkpoint: a folder that links outside",
           _checkpoint(lambda p: (shutil.rmtree(p / "vae"), (p / "vae").symlink_to("/etc"))),
           list_components, EITHER),
    Attack(AREA, "checkpoint: a component that climbs",
           _checkpoint(_index(**{"../vae": ["diffusers", "AutoencoderKL"]})), list_components),
    Attack(AREA, "checkpoint: a component without a folder",
           _checkpoint(lambda p: shutil.rmtree(p / "vae")), list_components, REFUSED),
    Attack(AREA, "checkpoint: an index 100,000 deep",
           _checkpoint(lambda p: (p / INDEX).write_text('{"a":' * 100_000)), list_components),
]  # fmt: skip
