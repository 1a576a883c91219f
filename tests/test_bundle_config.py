"""A bundle's JSON: nothing but what is canonical is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from signed_changes import (
    DW,
    FC,
    OUT,
    Json,
    change_json,
    replace_bytes,
)

from mpq_export.bundle import (
    CONFIG,
    SCHEDULER,
    WEIGHTS,
    read_bundle,
)
from mpq_export.core.planes import MAX_COLUMNS
from mpq_export.errors import BundleError
from mpq_export.files import MANIFEST, write_json


def _entry(**change: Any) -> Callable[[Json], None]:
    return lambda data: data["files"][CONFIG].update(change)


MANIFEST_BREAKAGES: dict[str, tuple[Callable[[Json], Any], str]] = {
    "no files": (lambda d: d.pop("files"), "does not list"),
    "files are a list": (lambda d: d.update(files=list(d["files"])), "does not list"),
    "an entry is missing": (lambda d: d["files"].pop(CONFIG), "does not list"),
    "one more file": (lambda d: d["files"].update(extra=d["files"][CONFIG]), "does not list"),
    "a path outside": (
        lambda d: d["files"].update({"../config.json": d["files"].pop(CONFIG)}), "does not list",
    ),
    "an absolute path": (
        lambda d: d["files"].update({"/etc/passwd": d["files"].pop(CONFIG)}), "does not list",
    ),
    "an entry is a list": (lambda d: d["files"].update({CONFIG: []}), "malformed"),
    "no hash": (lambda d: d["files"][CONFIG].pop("sha256"), "malformed"),
    "hash is a number": (_entry(sha256=1), "malformed"),
    "no size": (lambda d: d["files"][CONFIG].pop("size"), "malformed"),
    "size is a text": (_entry(size="1"), "malformed"),
    "size is a fraction": (_entry(size=1.0), "malformed"),
    "another hash": (_entry(sha256="0" * 64), "not the one that was written"),
    "an empty hash": (_entry(sha256=""), "not the one that was written"),
    "another size": (_entry(size=5), "not the one that was written"),
    "a size below zero": (_entry(size=-1), "malformed|not the one that was written"),
    "more JSON than is read": (_entry(size=(64 << 20) + 1), "too large"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFEST_BREAKAGES)
def test_a_broken_manifest_is_refused(handmade_folder: Path, case: str) -> None:
    edit, message = MANIFEST_BREAKAGES[case]
    data = json.loads((handmade_folder / MANIFEST).read_text())
    edit(data)
    write_json(handmade_folder / MANIFEST, data)
    with pytest.raises(BundleError, match=message):
        read_bundle(handmade_folder)


@pytest.mark.parametrize("size", [1 << 40, 1 << 50, 1 << 70])
def test_a_declared_size_costs_no_memory(handmade_folder: Path, size: int) -> None:
    data = json.loads((handmade_folder / MANIFEST).read_text())
    data["files"][WEIGHTS]["size"] = size
    write_json(handmade_folder / MANIFEST, data)
    with pytest.raises(BundleError):
        read_bundle(handmade_folder)


BAD_JSON = {
    "empty": b"",
    "cut": b'{"quantization_config": {',
    "not an object": b"[]",
    "a duplicate key": b'{"a": 1, "a": 1}',
    "a duplicate key inside": b'{"a": {"b": 1, "b": 2}}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "not UTF-8": b'{"a": "\xff"}',
    "deep": b'{"a":' + b"[" * 100_000,
    "an endless number": b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("case", BAD_JSON)
@pytest.mark.parametrize("name", [CONFIG, SCHEDULER])
def test_bad_json_is_refused(handmade_folder: Path, name: str, case: str) -> None:
    replace_bytes(handmade_folder, name, BAD_JSON[case])
    with pytest.raises(BundleError, match=r"not valid JSON|not a JSON object") as caught:
        read_bundle(handmade_folder)
    assert name in caught.value.where


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_manifest_of_bad_json_is_refused(handmade_folder: Path, case: str) -> None:
    (handmade_folder / MANIFEST).write_bytes(BAD_JSON[case])
    with pytest.raises(BundleError, match=r"not valid JSON|not a JSON object"):
        read_bundle(handmade_folder)


def _config(**change: Any) -> Callable[[Json], None]:
    return lambda config: config["quantization_config"].update(change)


def _layer(name: str, **change: Any) -> Callable[[Json], None]:
    return lambda config: config["quantization_config"]["layers"][name].update(change)


def _without(name: str, key: str) -> Callable[[Json], Any]:
    return lambda config: config["quantization_config"]["layers"][name].pop(key)


def _renamed(name: str) -> Callable[[Json], None]:
    def edit(config: Json) -> None:
        layers = config["quantization_config"]["layers"]
        layers[name] = layers.pop(OUT)

    return edit


CONFIG_BREAKAGES: dict[str, tuple[Callable[[Json], Any], str]] = {
    "none": (lambda c: c.pop("quantization_config"), "not an mpq bundle"),
    "not an object": (lambda c: c.update(quantization_config=[]), "not an mpq bundle"),
    "another method": (_config(quant_method="gptq"), "not an mpq bundle"),
    "an older version": (_config(format_version=0), "format version 0"),
    "a newer version": (_config(format_version=3), "format version 3"),
    "a text as version": (_config(format_version="1"), "format version 1"),
    "no version": (lambda c: c["quantization_config"].pop("format_version"), "format version None"),
    "no bits": (lambda c: c["quantization_config"].pop("bits"), "bits: Field required"),
    "bits that are none": (_config(bits="w9a4"), "malformed"),
    "an unknown key": (_config(shards=2), "shards: Extra inputs"),
    "no layers": (lambda c: c["quantization_config"].pop("layers"), "layers: Field required"),
    "layers are a list": (_config(layers=[]), "layers: "),
    "a family that is a path": (_config(family="../evil"), "family: "),
    "a reason that is a number": (_config(kept={"norm": 1}), "kept.norm: "),
    "parameters below zero": (_config(full_precision_parameters=-1), "full_precision_parameters: "),
    "an unknown layer key": (_layer(FC, sparsity=2), f"layers.{FC}.sparsity: Extra inputs"),
    "an unknown kind": (_layer(FC, kind="conv3d"), "kind: "),
    "no kind": (_without(FC, "kind"), "kind: Field required"),
    "1 activation bit": (_layer(FC, act_bits=1), "act_bits: "),
    "9 activation bits": (_layer(FC, act_bits=9), "act_bits: "),
    "bits are a truth value": (_layer(FC, act_bits=True), "act_bits: "),
    "bits are a text": (_layer(FC, act_bits="4"), "act_bits: "),
    "K is 0": (_layer(FC, K=0), "K: "),
    "K could overflow": (_layer(FC, K=MAX_COLUMNS + 1), "K: "),
    "K is a fraction": (_layer(FC, K=40.0), "K: "),
    "a linear with geometry": (_layer(FC, group=1), "a linear none"),
    "a conv without strides": (_without(DW, "strides"), "a conv has"),
    "a conv without group": (_without(DW, "group"), "a conv has"),
    "a kernel of one number": (_layer(DW, kernel_shape=[3]), "kernel_shape: "),
    "three pads": (_layer(DW, pads=[1, 0, 2]), "pads: "),
    "a pad below zero": (_layer(DW, pads=[-1, 0, 2, 1]), "pads are"),
    "a stride of 0": (_layer(DW, strides=[0, 1]), "1 to 4096"),
    "a huge dilation": (_layer(DW, dilations=[1, 1 << 40]), "1 to 4096"),
    "group 0": (_layer(DW, group=0), "group: "),
    "group that does not divide": (_layer(DW, group=3), "breaks the format"),
    "a kernel that does not divide K": (_layer(DW, kernel_shape=[4, 2]), "kernel taps"),
    "a huge group": (_layer(DW, group=1 << 40), "malformed|breaks the format"),
    "an endless group": (_layer(DW, group=10**30), "malformed|breaks the format"),
    "another K": (_layer(FC, K=39), "breaks the format"),
    "another kind": (_layer(OUT, K=31), "breaks the format"),
    "a layer without tensors": (_renamed("blocks.0.other"), "planes is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIG_BREAKAGES)
def test_a_broken_config_is_refused(handmade_folder: Path, case: str) -> None:
    edit, message = CONFIG_BREAKAGES[case]
    change_json(handmade_folder, CONFIG, edit)
    with pytest.raises(BundleError, match=message):
        read_bundle(handmade_folder)


@pytest.mark.parametrize(
    "name",
    ["", ".", "out.", ".out", "a..b", "a/b", "../out", "a b", "a-b", "ä", "out\n", "a" * 513],
)
def test_layer_names_are_module_paths(handmade_folder: Path, name: str) -> None:
    change_json(handmade_folder, CONFIG, _renamed(name))
    with pytest.raises(BundleError, match="not a module path"):
        read_bundle(handmade_folder)
