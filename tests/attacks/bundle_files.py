"""Attacks on the files of a bundle: the folder, the manifest, JSON."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soundness import assert_sound_bundle

from mpq_export.bundle import CONFIG, CORE_FILES, SCHEDULER, WEIGHTS, read_bundle
from mpq_export.errors import BundleError
from mpq_export.files import MANIFEST, MAX_JSON_BYTES

from .attack import CORRECT, EITHER, REFUSED, Attack, Outcome
from .bundles import Make, handmade, signed, spoiled, with_bytes

AREA = "bundle files"


def read(folder: Path) -> None:
    """The door: read it; what is accepted must be sound."""
    assert_sound_bundle(read_bundle(folder))


def refuse_every_flip(name: str) -> Callable[[Path], None]:
    """Flip bits all over a file: each one alone must be refused."""

    def enter(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        step = max(1, len(whole) * 8 // 97)
        for bit in range(0, len(whole) * 8, step):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(data)
            try:
                read_bundle(folder)
            except BundleError as error:
                last = error
            else:
                raise AssertionError(f"bit {bit} of {name} was flipped and nobody noticed")
        raise last

    return enter


def _attack(name: str, make: Make, names: str, allowed: frozenset[Outcome] = REFUSED) -> Attack:
    return Attack(AREA, name, make, read, allowed, names)


def _file_attacks(name: str) -> list[Attack]:
    """Another thing in the place of a file."""

    def replaced(put: Callable[[Path], Any]) -> Make:
        return spoiled(lambda f: ((f / name).rename(f.parent / "moved"), put(f / name)))

    def listen(path: Path) -> None:
        os.chdir(path.parent)  # names of sockets are short
        socket.socket(socket.AF_UNIX).bind(path.name)

    # The manifest's last byte is the end of a line.
    harmless = ("cut by a byte",) if name == MANIFEST else ()
    return [
        _attack(f"{name}: {what}", make, name, EITHER if what in harmless else REFUSED)
        for what, make in {
            "missing": spoiled(lambda f: (f / name).unlink()),
            "a folder": replaced(Path.mkdir),
            "a pipe nobody writes to": replaced(os.mkfifo),
            "a socket": replaced(listen),
            "a link to the file itself, moved out": replaced(
                lambda p: p.symlink_to(p.parents[len(Path(name).parts)] / "moved")
            ),
            "a link to endless zeros": replaced(lambda p: p.symlink_to("/dev/zero")),
            "a link to a secret": replaced(lambda p: p.symlink_to("/etc/passwd")),
            "a link to nothing": replaced(lambda p: p.symlink_to("nowhere")),
            "a link to itself": replaced(lambda p: p.symlink_to(p)),
            "cut to nothing": spoiled(lambda f: os.truncate(f / name, 0)),
            "cut by a byte": spoiled(
                lambda f: os.truncate(f / name, (f / name).stat().st_size - 1)
            ),
            "cut in half": spoiled(lambda f: os.truncate(f / name, (f / name).stat().st_size // 2)),
            "a terabyte of hole": spoiled(lambda f: os.truncate(f / name, 1 << 40)),
        }.items()
    ]


def _manifest(edit: Callable[[dict[str, Any]], Any]) -> Make:
    def change(folder: Path) -> None:
        data = json.loads((folder / MANIFEST).read_text())
        edit(data)
        (folder / MANIFEST).write_text(json.dumps(data))

    return spoiled(change)


def _entry(name: str = WEIGHTS, **change: Any) -> Make:
    return _manifest(lambda data: data["files"][name].update(change))


def _linked_folder(folder: Path) -> None:
    shutil.move(folder / "scheduler", folder.parent / "elsewhere")
    (folder / "scheduler").symlink_to(folder.parent / "elsewhere")


def _hole_of_declared_size(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 1 << 39)
    data = json.loads((folder / MANIFEST).read_text())
    data["files"][WEIGHTS]["size"] = 1 << 39
    (folder / MANIFEST).write_text(json.dumps(data))


ESCAPING = (
    "../outside", "/etc/passwd", "a/../../outside", "scheduler/../../outside", "..", "", ".",
    "..\\outside", "weights.safetensors\0", "~/.profile", "file:///etc/passwd", "C:\\x", "\ud800",
)  # fmt: skip

MANIFESTS: dict[str, Make] = {
    **{
        f"lists {name!r} too": _manifest(
            lambda data, name=name: data["files"].update({name: data["files"][WEIGHTS]})
        )
        for name in ESCAPING
    },
    **{
        f"lists {name!r} in place of the weights": _manifest(
            lambda data, name=name: data["files"].update({name: data["files"].pop(WEIGHTS)})
        )
        for name in ESCAPING
    },
    **{
        f"declares {size!r} bytes": _entry(size=size)
        for size in (-1, 0, 1 << 62, 1 << 70, 10**400, 1.5, True, "1", None, [], {})
    },
    **{
        f"declares the hash {hash_!r}": _entry(sha256=hash_)
        for hash_ in ("", "0" * 64, None, 0, [], {})
    },
    "has entries that are lists": _manifest(lambda d: d["files"].update({WEIGHTS: [1, 2]})),
    "has a list of files": _manifest(lambda d: d.update(files=list(CORE_FILES))),
    "has no files": _manifest(lambda d: d.pop("files")),
    "lists nothing": _manifest(lambda d: d.update(files={})),
}

BAD_JSON: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "not JSON": lambda _: b"\x80\x04K\x01.",
    "a list": lambda _: b"[]",
    "a number": lambda _: b"1",
    "cut": lambda data: data[:-3],
    "two objects": lambda data: data + data,
    "a duplicate key": lambda data: b'{"a":1,"a":1,' + data.lstrip()[1:],
    "a duplicate key deep inside": lambda d: d.rstrip()[:-1] + b',"z":[{"q":{"a":1,"a":2}}]}',
    "a duplicate key by escapes": lambda d: d.rstrip()[:-1] + b',"\\u0061":1,"a":1}',
    "NaN": lambda data: data.rstrip()[:-1] + b',"z":NaN}',
    "-Infinity": lambda data: data.rstrip()[:-1] + b',"z":-Infinity}',
    "a number beyond float64": lambda data: data.rstrip()[:-1] + b',"z":1e999}',
    "a number of 100,000 digits": lambda d: d.rstrip()[:-1] + b',"z":' + b"9" * 100_000 + b"}",
    "100,000 lists in one another": lambda d: d.rstrip()[:-1] + b',"z":' + b"[" * 100_000,
    "100,000 objects in one another": lambda d: d.rstrip()[:-1] + b',"z":' + b'{"a":' * 100_000,
    "balanced lists 50,000 deep": lambda data: (
        data.rstrip()[:-1] + b',"z":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    ),
    "half a surrogate pair": lambda data: data.rstrip()[:-1] + b',"z":"\\ud800"}',
    "half a surrogate pair in a key": lambda data: data.rstrip()[:-1] + b',"\\udfff":1}',
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "bytes that are not UTF-8": lambda data: data.rstrip()[:-1] + b',"z":"\xff\xfe"}',
    "a NUL": lambda data: data.rstrip()[:-1] + b',"z":"\0"}',
    "one byte too large": lambda data: data + b" " * (MAX_JSON_BYTES + 1 - len(data)),
}


def _oversized(name: str, edit: Callable[[bytes], bytes]) -> Make:
    if name != MANIFEST:
        return with_bytes(name, edit)
    return spoiled(lambda f: (f / name).write_bytes(edit((f / name).read_bytes())))


def _with_strangers(folder: Path) -> None:
    """What is no part of reading a bundle may be anything."""
    (folder / "onnx").symlink_to("/dev/zero")
    os.mkfifo(folder / "pytorch_model.bin")
    (folder / "modeling.py").write_text("raise SystemExit('executed')")
    (folder / "__init__.py").write_text("raise SystemExit('executed')")


ATTACKS = [
    *(attack for name in (*CORE_FILES, MANIFEST) for attack in _file_attacks(name)),
    *(
        Attack(AREA, f"{name}: bits flipped all over", handmade, refuse_every_flip(name))
        for name in CORE_FILES
    ),
    _attack("the scheduler's folder is a link", spoiled(_linked_folder), "scheduler"),
    _attack("half a terabyte of hole, declared", spoiled(_hole_of_declared_size), WEIGHTS),
    *(_attack(f"the manifest {what}", make, MANIFEST) for what, make in MANIFESTS.items()
      if "bytes" not in what and "hash" not in what),
    *(_attack(f"the manifest {what}", make, "") for what, make in MANIFESTS.items()
      if "bytes" in what or "hash" in what),
    *(
        _attack(f"{name} is {what}", _oversized(name, edit), name)
        for name in (CONFIG, SCHEDULER, MANIFEST)
        for what, edit in BAD_JSON.items()
    ),
    _attack("code and pipes lie beside the files", spoiled(_with_strangers), "", CORRECT),
    _attack("a path that is a file", lambda p: handmade(p) / CONFIG, "config.json"),
    _attack("a path that does not exist", lambda p: p.folder / "nothing", "nothing"),
    _attack("a path of 100,000 letters", lambda p: p.folder / ("x" * 100_000), ""),
    _attack("a path with a NUL", lambda p: p.folder / "a\0b", ""),
    _attack("a link to the whole bundle", lambda p: _link_to(handmade(p)), "", CORRECT),
    _attack(
        "an empty scheduler config", signed(lambda f: (f / SCHEDULER).write_text("{}")), "", EITHER
    ),
]  # fmt: skip


def _link_to(folder: Path) -> Path:
    link = folder.parent / "link"
    link.symlink_to(folder)
    return link
