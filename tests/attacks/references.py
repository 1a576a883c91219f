"""Attacks on files of reference statistics and on folders of images that are gone on with."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from mpq_export.bundle import read_bundle
from mpq_export.evaluation.gate import Limits, require_answerable
from mpq_export.evaluation.original import config_sha256
from mpq_export.evaluation.reference import read_reference
from mpq_export.image_folder import IMAGES, REQUEST, ImageFolder

from .attack import CORRECT, EITHER, Attack, Place
from .bundles import lowered

AREA = "references"
HEADER = {
    "version": 1,
    "extractor": "x",
    "counts": {"images": 20},
    "drawn": {"model": "m", "model_config_sha256": "0" * 64, "num_images": 20, "num_steps": 1,
              "seed": 0, "batch": 1, "scheduler": {}},
}  # fmt: skip


def _file(content: bytes) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        path = place.folder / "reference.safetensors"
        path.write_bytes(content)
        return path

    return make


def _tensors(header: object, **changes: np.ndarray) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        tensors = {
            "images.mean": np.zeros(4), "images.scatter": np.eye(4),
            "shown": np.zeros((1, 1, 2, 2), np.uint8),
        } | changes  # fmt: skip
        text = header if isinstance(header, str) else json.dumps(header)
        save_file(tensors, place.folder / "f", {"mpq_reference": text})
        return place.folder / "f"

    return make


def _shaped(shape: list[int]) -> bytes:
    """A file that claims a tensor of this shape and holds none of it."""
    entry = {"dtype": "F64", "shape": shape, "data_offsets": [0, 8 * int(np.prod(shape))]}
    header = json.dumps({"images.scatter": entry}).encode()
    return struct.pack("<Q", len(header)) + header


def _folder_with(content: str | bytes | None, image: bytes | None = None) -> Callable:
    def make(place: Place) -> Path:
        folder = place.folder / "out"
        (folder / IMAGES).mkdir(parents=True)
        if isinstance(content, str):
            (folder / REQUEST).write_text(content)
        elif content is not None:
            (folder / REQUEST).write_bytes(content)
        if image is not None:
            (folder / IMAGES / "000000.png").write_bytes(image)
        return folder

    return make


def go_on(path: Path) -> None:
    """The door: what a second ``mpq-sample --images`` does with a folder."""
    folder = ImageFolder(path, {"seed": 0})
    folder.open()
    if folder.has(range(1)):
        assert folder.read(range(1)).nbytes <= 1 << 28


def pass_gate(folder: Path) -> None:
    """The door: what ``mpq-check --reference`` asks of a reference before it draws."""
    reference = read_reference(folder / "reference")
    require_answerable(read_bundle(folder / "bundle"), reference, Limits(psnr=60.0))


def claiming(version: int, **drawn: object) -> Callable[[Place], Path]:
    """The reference of a bundle, beside it, with another word for who drew."""

    def make(place: Place) -> Path:
        bundle = read_bundle(lowered(place))
        own = {
            "by": "checkpoint", "model": "full precision", "num_images": 1,
            "model_config_sha256": config_sha256(bundle.model_config),
            "weights_sha256": bundle.quantization.source_sha256,
        }  # fmt: skip
        said = {**HEADER["drawn"], **own, **drawn}
        text = {key: value for key, value in said.items() if value is not None}
        header = {"version": version, "counts": {}, "drawn": text}
        shown = {"shown": np.zeros((1, 2, 8, 8), np.uint8)}
        save_file(shown, place.folder / "reference", {"mpq_reference": json.dumps(header)})
        return place.folder

    return make


def _bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few hundred kilobytes."""
    import io
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))  # fmt: skip

    out = io.BytesIO()
    out.write(b"\x89PNG\r\n\x1a\n")
    out.write(chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)))
    out.write(chunk(b"IDAT", zlib.compress(b"\0" * (1 << 20), 9)))
    out.write(chunk(b"IEND", b""))
    return out.getvalue()


def _palette(place: Place) -> Path:
    folder = _folder_with('{"seed": 0}')(place)
    Image.new("P", (4, 4)).save(folder / IMAGES / "000000.png")
    return folder


def _linked(place: Place) -> Path:
    folder = place.folder / "out"
    folder.mkdir()
    (folder / REQUEST).symlink_to("/dev/zero")
    return folder


BAD_HEADERS: dict[str, object] = {
    "no JSON": "{",
    "100,000 brackets": "[" * 100_000,
    "a list": [],
    "a key twice": '{"version": 1, "version": 1}',
    "half a character": '{"extractor": "\\ud800"}',
    "a count of 10**400": HEADER | {"counts": {"images": 10**400}},
    "a negative count": HEADER | {"counts": {"images": -1}},
    "a count that is text": HEADER | {"counts": {"images": "20"}},
    "an accuracy of infinity": json.dumps(HEADER | {"accuracy": float("inf")}),
    "no drawing": {key: value for key, value in HEADER.items() if key != "drawn"},
}
FILES: dict[str, bytes] = {
    "nothing": b"",
    "a header of 2**62 bytes": struct.pack("<Q", 1 << 62) + b"{}",
    "a tensor of 2**40 values": _shaped([1 << 20, 1 << 20]),
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.",
    "an npz": b"PK\x03\x04" + bytes(100),
}

ATTACKS = [
    *(Attack(AREA, f"reference: {what}", _file(data), read_reference)
      for what, data in FILES.items()),
    *(Attack(AREA, f"reference: metadata of {what}", _tensors(header), read_reference)
      for what, header in BAD_HEADERS.items()),
    Attack(AREA, "reference: a mean of infinity",
           _tensors(HEADER, **{"images.mean": np.full(4, np.inf)}), read_reference),
    Attack(AREA, "reference: a scatter of other width",
           _tensors(HEADER, **{"images.scatter": np.eye(5)}), read_reference),
    Attack(AREA, "reference: a device without end", lambda _: Path("/dev/zero"), read_reference),
    Attack(AREA, "reference: a folder", lambda place: place.folder, read_reference),
    Attack(AREA, "gate: nothing at all: the checkpoint's images", claiming(3), pass_gate, CORRECT),
    Attack(AREA, "gate: a bundle's own images", claiming(3, by="bundle"), pass_gate,
           names="full precision"),
    Attack(AREA, "gate: a bundle's own images, without a digest",
           claiming(3, by="bundle", weights_sha256=None), pass_gate, names="full precision"),
    Attack(AREA, "gate: a bundle's own images of a former version",
           claiming(2, by=None, model="W4A8 bundle", weights_sha256=None), pass_gate,
           names="full precision"),
    Attack(AREA, "gate: a checkpoint of no weights", claiming(3, weights_sha256=None), pass_gate,
           names="weights"),
    Attack(AREA, "gate: nobody's images", claiming(3, by=None), pass_gate, names="by"),
    Attack(AREA, "folder: a request that is no JSON", _folder_with("{"), go_on),
    Attack(AREA, "folder: a request of 100,000 brackets", _folder_with('{"a":' * 100_000), go_on),
    Attack(AREA, "folder: a request of bytes", _folder_with(b"\xff\xfe"), go_on),
    Attack(AREA, "folder: another request", _folder_with('{"seed": 1}'), go_on),
    Attack(AREA, "folder: a request without end", _linked, go_on),
    Attack(AREA, "folder: an image and no request", _folder_with(None, _bomb()), go_on),
    Attack(AREA, "folder: no image and no request", _folder_with(None), go_on, CORRECT),
    Attack(AREA, "folder: an image of 3,600,000,000 pixels",
           _folder_with('{"seed": 0}', _bomb()), go_on),
    Attack(AREA, "folder: half an image", _folder_with('{"seed": 0}', _bomb()[:300]), go_on,
           EITHER),
    Attack(AREA, "folder: an image that ends well and is none",
           _folder_with('{"seed": 0}', b"GIF89a" + bytes(50) + b"IEND\xaeB`\x82"), go_on),
    Attack(AREA, "folder: an image of a palette", _palette, go_on),
]  # fmt: skip
