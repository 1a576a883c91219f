"""Files of weights: shards, variants, formats; damaged and hostile ones are refused."""

import json
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from mpq_export.checkpoints.pickles import read_pickle
from mpq_export.checkpoints.state_files import read_file, read_folder
from mpq_export.errors import CheckpointError
from mpq_export.files import write_json

STEM = "diffusion_pytorch_model"
TENSORS = {"a": torch.ones(2), "b": torch.arange(3.0), "c": torch.zeros(1, 2)}


def equal(tensors, expected):
    return tensors.keys() == expected.keys() and all(
        torch.equal(tensors[name], value) for name, value in expected.items()
    )


def save(tensors, path):
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)


# --- shards -----------------------------------------------------------------------------------


def shards(folder, suffix="safetensors"):
    """Two shards and their index, which is returned."""
    one, two = (f"{STEM}-0000{i}-of-00002.{suffix}" for i in (1, 2))
    save({"a": TENSORS["a"], "c": TENSORS["c"]}, folder / one)
    save({"b": TENSORS["b"]}, folder / two)
    index = folder / f"{STEM}.{suffix}.index.json"
    write_json(index, {"metadata": {}, "weight_map": {"a": one, "b": two, "c": one}})
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards(tmp_path, suffix):
    shards(tmp_path, suffix)
    assert equal(read_folder(tmp_path).tensors, TENSORS)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.safetensors", "sub/x.safetensors", "a\\b.safetensors", "", ".", "..", 3,
     None, ["x.safetensors"], "x\0.safetensors", "x.bin"],
)  # fmt: skip
def test_shards_lie_in_the_folder(tmp_path, name):
    index = shards(tmp_path)
    data = json.loads(index.read_text())
    data["weight_map"]["a"] = name
    write_json(index, data)
    with pytest.raises(CheckpointError, match="not a file of the folder"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(d=m["a"]), r"1 tensors are not there \(d\)"),
        (lambda m: m.pop("a"), r"1 are not listed for it \(a\)"),
        (lambda m: m.update(a=m["b"], b=m["a"]), "does not hold what the index says"),
        (lambda m: m.update({n: f"{STEM}-0-of-9.safetensors" for n in m}), "shard is missing"),
        (lambda m: m.clear(), "lists no tensors"),
    ],
)
def test_an_index_that_is_not_right(tmp_path, edit, message):
    index = shards(tmp_path)
    data = json.loads(index.read_text())
    edit(data["weight_map"])
    write_json(index, data)
    with pytest.raises(CheckpointError, match=message):
        read_folder(tmp_path)


def test_a_tensor_in_two_shards(tmp_path):
    shards(tmp_path)
    save({"a": TENSORS["a"], "b": TENSORS["b"]}, tmp_path / f"{STEM}-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"1 are not listed for it \(a\)"):
        read_folder(tmp_path)


# --- variants ---------------------------------------------------------------------------------


def test_a_single_variant_is_taken_and_said(tmp_path):
    save(TENSORS, tmp_path / f"{STEM}.fp16.safetensors")
    save(TENSORS, tmp_path / f"{STEM}.fp16.bin")
    state = read_folder(tmp_path)
    assert equal(state.tensors, TENSORS)
    (note,) = state.notes
    assert f"variant fp16 ({STEM}.fp16.safetensors)" in note


def test_the_file_without_variant_is_preferred(tmp_path):
    save({"z": torch.ones(1)}, tmp_path / f"{STEM}.non_ema.safetensors")
    save(TENSORS, tmp_path / f"{STEM}.bin")
    state = read_folder(tmp_path)
    assert equal(state.tensors, TENSORS)
    assert state.notes == ()


def test_several_variants_are_named(tmp_path):
    for variant in ("fp16", "non_ema"):
        save(TENSORS, tmp_path / f"{STEM}.{variant}.safetensors")
    with pytest.raises(CheckpointError, match="fp16, non_ema, and none"):
        read_folder(tmp_path)


# --- hostile files ----------------------------------------------------------------------------


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(start, end, shape=(1,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


BROKEN = {
    "a huge header": (2**40).to_bytes(8, "little") + b"{}",
    "a negative header": b"\xff" * 8 + b"{}",
    "data beyond the file": safetensors_bytes({"a": entry(0, 4)}),
    "data after the tensors": safetensors_bytes({"a": entry(0, 4)}, b"\0" * 8),
    "another shape": safetensors_bytes({"a": entry(0, 4, (2,))}, b"\0" * 4),
    "an overflowing shape": safetensors_bytes({"a": entry(0, 4, (2**62, 8))}, b"\0" * 4),
    "overlapping tensors": safetensors_bytes({"a": entry(0, 4), "b": entry(0, 4)}, b"\0" * 4),
    "a hole": safetensors_bytes({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12),
    "a name twice": safetensors_bytes(
        b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4)).encode(),) * 2), b"\0" * 4
    ),
    "not JSON": safetensors_bytes(b"{", b""),
    "a list": safetensors_bytes([1], b""),
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_safetensors(tmp_path, case):
    (tmp_path / "m.safetensors").write_bytes(BROKEN[case])
    with pytest.raises(CheckpointError):
        read_file(tmp_path / "m.safetensors")


def test_a_header_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as stream:  # sparse: no disk is used
        stream.write((100_000_001).to_bytes(8, "little") + b"{}")
        stream.truncate(200_000_000)
    with pytest.raises(CheckpointError):
        read_file(path)


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "m.bin").write_bytes(BROKEN["a pointer"])
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_file(tmp_path / "m.bin")


@pytest.mark.parametrize("old", [True, False])
def test_a_tensor_larger_than_its_file(tmp_path, old):
    """1 TB by its shape, 4 bytes in the file."""
    torch.save(
        {"a": torch.ones(1).expand(2**19, 2**19)},
        tmp_path / "m.pt",
        _use_new_zipfile_serialization=not old,
    )
    with pytest.raises(CheckpointError, match="larger than their file"):
        read_file(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(2, device="meta"), torch.eye(2).to_sparse()],
    ids=["without storage", "sparse"],
)
def test_tensors_that_are_not_plain(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="not a plain one"):
        read_file(tmp_path / "m.pt")


def test_a_compressed_archive(tmp_path):
    torch.save(TENSORS, tmp_path / "m.pt")
    with (
        zipfile.ZipFile(tmp_path / "m.pt") as old,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        read_file(tmp_path / "bomb.pt")


class _Stranger:
    """A class that no checkpoint needs."""


def test_other_classes_are_refused(tmp_path):
    torch.save({"model": TENSORS, "extra": _Stranger()}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="so it was not loaded"):
        read_file(tmp_path / "m.pt")


def test_stand_ins_hold_nothing_and_do_not_stay(tmp_path):
    import argparse

    torch.save({"args": argparse.Namespace(secret=3)}, tmp_path / "m.pt")
    found = read_pickle(tmp_path / "m.pt")["args"]
    assert not isinstance(found, argparse.Namespace)
    assert vars(found) == {}
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "m.pt", weights_only=True)


# --- memory -----------------------------------------------------------------------------------

MEASURE = """
import sys
from pathlib import Path
from mpq_export.checkpoints.state_files import read_file
import safetensors.torch, torch
def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
before = anonymous()
state = read_file(Path(sys.argv[1]))
total = sum(float(t.sum()) for t in state.tensors.values())
print(anonymous() - before, total)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_weights_stay_in_their_file(tmp_path, name):
    """64 MB of weights, all read, cost no memory of the process's own."""
    tensors = {f"w{i}": torch.ones(1 << 20) for i in range(16)}
    save(tensors, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / name], capture_output=True, text=True, check=True
    )
    grown, total = map(float, done.stdout.split())
    assert total == 16 << 20
    assert grown < 16_000, f"{grown} KiB"
