"""Attacks on full-precision checkpoints: pickles with code, bombs, tricks of config and index."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mpq_export.checkpoints.loading import load_checkpoint

from .attack import CORRECT, EITHER, REFUSED, Attack, Place

AREA = "checkpoints"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
Edit = Callable[[Path], Any]


class Code:
    """Unpickled, it would create the canary."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("canary",)


class HiddenCode:
    """Code as the state of an innocent class."""

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (), {"x": Code()}


def load_folder(pipeline: Path) -> None:
    """The door: a pipeline folder."""
    assert next(load_checkpoint(pipeline).model.parameters()).isfinite().all()


def load_file(path: Path) -> None:
    """The door: a single file with the tiny model's config."""
    pipeline = path.parent / "pipeline"
    load_checkpoint(path, pipeline / "unet" / "config.json", pipeline / "scheduler")


def _pipeline(edit: Edit) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        folder = Path(shutil.copytree(place.material.pipeline, place.folder / "pipeline"))
        edit(folder)
        return folder

    return make


def _file(name: str, write: Edit) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        shutil.copytree(place.material.pipeline, place.folder / "pipeline")
        write(place.folder / name)
        return place.folder / name

    return make


def _json(name: str, **change: Any) -> Edit:
    def edit(pipeline: Path) -> None:
        data = json.loads((pipeline / name).read_text())
        (pipeline / name).write_text(json.dumps(data | change))

    return edit


def _state(pipeline: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(pipeline / WEIGHTS)


def _torch(content: Callable[[dict[str, Any]], Any], **options: Any) -> Edit:
    """Write with torch.save what a function makes of the tiny model's state."""

    def write(path: Path) -> None:
        import torch

        torch.save(content(_state(path.parent / "pipeline")), path, **options)

    return write


def _pickled(content: Any, protocol: int) -> Edit:
    return lambda path: path.write_bytes(pickle.dumps(content, protocol))


def _header(header: bytes, size: int | None = None) -> Edit:
    length = struct.pack("<Q", len(header) if size is None else size)
    return lambda path: path.write_bytes(length + header)


def _weights(edit: Callable[[dict[str, Any]], Any]) -> Edit:
    def change(pipeline: Path) -> None:
        from safetensors.torch import save_file

        state = _state(pipeline)
        edit(state)
        save_file(state, pipeline / WEIGHTS)

    return change


def _in_unet(write: Edit, name: str = "diffusion_pytorch_model.bin") -> Edit:
    """Only that file lies beside the config."""

    def edit(pipeline: Path) -> None:
        (pipeline / WEIGHTS).unlink()
        write(pipeline / "unet" / name)

    return edit


def _deflated_bomb(path: Path) -> None:
    """A zip of a megabyte that swells to a gigabyte."""
    import torch

    torch.save({"x": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, data in entries.items():
            with bomb.open(name, "w") as stream:
                stream.write(data)
                if name.endswith("/data/0"):
                    for _ in range(1024):
                        stream.write(bytes(1 << 20))


def _laughing_pickle() -> bytes:
    """Lists of ten times the list before, thirty deep: nothing in memory, endless to walk."""
    data = b"\x80\x02]q\x00"
    for level in range(1, 30):
        data += b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 10 + b"e"
    return data + b"."


def _shards(names: dict[str, Any]) -> Edit:
    """An index of shards in place of one file, which lies outside the folder."""

    def edit(pipeline: Path) -> None:
        (pipeline / WEIGHTS).rename(pipeline / "outside.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": names}
        (pipeline / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return edit


def _with_code_beside(pipeline: Path) -> None:
    """Python files and pickles beside good weights are never looked at."""
    for name in ("modeling.py", "pipeline.py", "__init__.py", "unet/modeling.py", "conftest.py"):
        (pipeline / name).write_text("import os; os.mkdir('canary')")
    (pipeline / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Code()))
    _json("unet/config.json", auto_map={"AutoModel": "modeling.Evil"}, trust_remote_code=True)(
        pipeline
    )


PICKLES: dict[str, Edit] = {
    "code": _pickled(Code(), 2),
    "code, protocol 4": _pickled(Code(), 4),
    "code, protocol 0": _pickled(Code(), 0),
    "code in a state_dict": _pickled({"state_dict": {"x": Code()}}, 2),
    "code in nested lists": _pickled([[[[{"a": (Code(),)}]]]], 2),
    "code as a key": _pickled({Code(): 1}, 2),
    "code in the state of another class": _pickled(HiddenCode(), 2),
    "code in a torch zip": _torch(lambda state: {**state, "x": Code()}),
    "code in a torch zip's state_dict": _torch(lambda s: {"state_dict": s, "optimizer": [Code()]}),
    "code in torch's old format": _torch(
        lambda state: {**state, "x": Code()}, _use_new_zipfile_serialization=False
    ),
    "posix.system by hand": lambda p: p.write_bytes(b"cposix\nsystem\n(S'mkdir canary'\ntR."),
    "builtins.eval by hand": lambda p: p.write_bytes(
        b"\x80\x02cbuiltins\neval\nX\x1a\x00\x00\x00__import__('os').mkdir('c')\x85R."
    ),
    "getattr chains": lambda p: p.write_bytes(
        b"\x80\x02cbuiltins\ngetattr\ncos\nX\x06\0\0\0system\x86R."
    ),
    "100,000 nested marks": lambda p: p.write_bytes(b"\x80\x02" + b"(" * 100_000 + b"."),
    "a memo bomb": lambda p: p.write_bytes(_laughing_pickle()),
    "a long of a gigabyte": lambda p: p.write_bytes(b"\x80\x02\x8b\xff\xff\xff\x3f\x01."),
    "a string of a gigabyte": lambda p: p.write_bytes(b"\x80\x02X\xff\xff\xff\x3fabc."),
    "tensors of strides 0": _torch(lambda s: {k: v.flatten()[:1].clone().expand(v.shape)
                                              if v.ndim == 1 else v for k, v in s.items()}),
    "a zip that is none": lambda p: p.write_bytes(b"PK\x03\x04" + b"\0" * 100),
    "a zip that swells to a gigabyte": _deflated_bomb,
    "a model object": _torch(lambda _: __import__("torch").nn.Linear(1, 1)),
    "numbers": _torch(lambda _: [1, 2, 3]),
    "NaN": _torch(lambda s: s | {"conv_in.bias": s["conv_in.bias"] * np.nan}),
    "a tensor of strides 0 that is huge": _torch(
        lambda s: s | {"conv_in.bias": s["conv_in.bias"][:1].expand(1 << 40)}
    ),
    "complex weights": _torch(lambda s: s | {"conv_in.bias": s["conv_in.bias"].cfloat()}),
    "whole-number weights": _torch(lambda s: s | {"conv_in.bias": s["conv_in.bias"].long()}),
    "a sparse tensor": _torch(lambda s: s | {"conv_in.bias": s["conv_in.bias"].to_sparse()}),
    "a tensor without storage": _torch(
        lambda s: s | {"conv_in.bias": s["conv_in.bias"].to("meta")}
    ),
    "half a file": lambda p: (_torch(lambda s: s)(p), os.truncate(p, p.stat().st_size // 2)),
}  # fmt: skip
HEADERS: dict[str, Edit] = {
    "a pickle": _pickled(Code(), 2),
    "a torch zip": _torch(lambda state: {**state, "x": Code()}),
    "a header of 2^63 bytes": _header(b"{}", 1 << 63),
    "a header of 99 MB": _header(b"{}", 99_000_000),
    "a header 100,000 deep": _header(b'{"a":' * 100_000),
    "a header of 10^5 dimensions": _header(
        json.dumps({"x": {"dtype": "F32", "shape": [1] * 10**5, "data_offsets": [0, 4]}}).encode()
        + b"\0" * 4
    ),
    "a tensor of 2^60 numbers": _header(
        json.dumps({"x": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}})
        .encode()
    ),
    "nothing": lambda path: path.write_bytes(b""),
    "a folder": Path.mkdir,
}  # fmt: skip
PIPELINES: dict[str, Edit] = {
    **{
        f"a pickle with {what}": _in_unet(_pickled(content, 2))
        for what, content in {"code": Code(), "hidden code": {"a": [Code()]}}.items()
    },
    "weights that are a pickle": lambda p: _pickled(Code(), 2)(p / WEIGHTS),
    "weights NaN": _weights(lambda s: s["conv_in.bias"].fill_(float("nan"))),
    "weights infinite": _weights(lambda s: s["conv_in.bias"].fill_(float("-inf"))),
    "a weight missing": _weights(lambda s: s.pop("conv_in.bias")),
    "a weight too many": _weights(lambda s: s.update({"__class__": s["conv_in.bias"].clone()})),
    **{
        f"the class {name!r}": _json("unet/config.json", _class_name=name)
        for name in ("os.system", "../modeling.Evil", "AutoModel", "DiffusionPipeline", None, 5)
    },
    "a class of custom code": _json(
        "unet/config.json", _class_name="Evil", auto_map={"AutoModel": "modeling.Evil"}
    ),
    **{
        f"shards in {name}": _shards({"conv_in.weight": name})
        for name in ("../outside.safetensors", "/etc/passwd", "../../../../etc/passwd", "nothing")
    },
    "shards that are numbers": _shards({"conv_in.weight": 5}),
    "a config 100,000 deep": lambda p: (p / "unet/config.json").write_text('{"a":' * 100_000),
    "an index of duplicate keys": lambda p: (p / "model_index.json").write_text(
        '{"unet": [], "unet": []}'
    ),
    "an index whose class is a list": _json("model_index.json", _class_name=["pipeline", "Evil"]),
}
# Repeated numbers within the file's own size take no more memory than the file.
HARMLESS = ("an index whose class is a list", "tensors of strides 0")

ATTACKS = [
    *(
        Attack(AREA, f"{suffix}: {what}", _file(f"model{suffix}", write), load_file,
               EITHER if what in HARMLESS else REFUSED)
        for what, write in PICKLES.items()
        for suffix in ((".pt", ".ckpt", ".bin") if what.startswith("code") else (".pt",))
    ),
    *(
        Attack(AREA, f".safetensors: {what}", _file("model.safetensors", write), load_file,
               names="model.safetensors")
        for what, write in HEADERS.items()
    ),
    *(
        Attack(AREA, f"folder: {what}", _pipeline(edit), load_folder,
               EITHER if what in HARMLESS else REFUSED)
        for what, edit in PIPELINES.items()
    ),
    Attack(AREA, "folder: code beside good weights", _pipeline(_with_code_beside), load_folder,
           CORRECT),
    Attack(AREA, "folder: nothing at all", _pipeline(lambda _: None), load_folder, CORRECT),
]  # fmt: skip
