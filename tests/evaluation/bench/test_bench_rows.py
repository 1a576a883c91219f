"""Rows, and the names that keep them apart."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mpq_export.bundle import read_bundle
from mpq_export.errors import UserError
from mpq_export.evaluation.bench import rows
from mpq_export.evaluation.bench.rows import bundle_rows, deployed_bytes
from mpq_export.evaluation.bench.store import Store, row_parts
from mpq_export.runtimes.names import Runtime


@pytest.fixture
def bundle(digits_folder):
    return read_bundle(digits_folder)


def test_a_bundle_has_a_row_in_every_runtime(bundle):
    found = bundle_rows([bundle], [Runtime.ORT, Runtime.TORCH])
    assert [row.name for row in found] == ["bundle-ort", "bundle-torch"]
    assert [row.title for row in found] == ["bundle in ort", "bundle in torch"]
    assert found[0].act_bits == 4
    assert 3 < found[0].weight_bits < 5
    assert row_parts(found[0]) != row_parts(found[1])


def test_what_is_deployed_depends_on_the_runtime(digits_folder):
    model = digits_folder / "onnx" / "ort" / "model.onnx"
    assert deployed_bytes(digits_folder, Runtime.ORT) == model.stat().st_size
    weights = digits_folder / "weights.safetensors"
    assert deployed_bytes(digits_folder, Runtime.TORCH) == weights.stat().st_size
    assert deployed_bytes(digits_folder, Runtime.TRT) == 0


def test_of_several_engines_the_size_is_that_of_the_one_that_runs(digits_folder, monkeypatch):
    """Not of all plans, nor of what was built for other machines."""
    asked = []

    def fitting(folder, target, files, here, gpu):
        asked.append((folder, target, files, here, gpu))
        return SimpleNamespace(size=1234)

    monkeypatch.setattr(rows, "lowered_files", lambda folder, target: {"model.onnx": "digest"})
    monkeypatch.setattr(rows, "installed", lambda runtime: f"{runtime} here")
    monkeypatch.setattr(rows, "gpu_here", lambda: "a GPU")
    monkeypatch.setattr(rows, "fitting_record", fitting)
    assert deployed_bytes(digits_folder, Runtime.TRT_RTX) == 1234
    files = {"model.onnx": "digest"}
    assert asked == [(digits_folder, "trt", files, "trt-rtx here", "a GPU")]


def test_bundles_of_one_name_are_called_by_their_parents(bundle, tmp_path):
    for parent in ("a", "b"):
        shutil.copytree(bundle.path, tmp_path / parent / "bundle")
    others = [replace(bundle, path=tmp_path / parent / "bundle") for parent in ("a", "b")]
    assert [row.name for row in bundle_rows(others, [Runtime.ORT])] == ["a-bundle", "b-bundle"]
    with pytest.raises(UserError, match="Two rows"):
        bundle_rows([bundle, bundle], [Runtime.ORT])


def test_a_part_is_made_once_and_a_failed_one_leaves_nothing(tmp_path):
    store, made = Store(tmp_path), []

    def make(folder):
        made.append(folder)
        (folder / "x").write_text("1")

    first = store.made("part", {"a": 1}, make)
    assert store.made("part", {"a": 1}, make) == first
    assert (first / "x").read_text() == "1"
    assert store.made("part", {"a": 2}, make) != first
    assert len(made) == 2
    with pytest.raises(ZeroDivisionError):
        store.made("part", {"a": 3}, lambda folder: 1 / 0)
    assert len(list(tmp_path.iterdir())) == 2
    store.made("part", {"a": 3}, make)
    assert len(made) == 3
    assert store.kept("figures", {}, lambda: {"ms": [1.5]}) == {"ms": [1.5]}
    assert store.kept("figures", {}, lambda: {"ms": []}) == {"ms": [1.5]}


def test_what_is_not_whole_is_not_kept(tmp_path):
    store, made = Store(tmp_path), iter([{"failure": "x"}, {"failure": None}, {"failure": "y"}])

    def kept():
        return store.kept("times", {}, lambda: next(made), lambda one: one["failure"] is None)

    assert [kept(), kept(), kept()] == [{"failure": "x"}, {"failure": None}, {"failure": None}]


def test_a_part_that_failed_goes_on_where_it_was(tmp_path):
    store, begun = Store(tmp_path), []

    def make(folder, unfinished):
        begun.append(len(list(unfinished.iterdir())))
        (unfinished / f"{len(begun)}").touch()
        if len(begun) < 3:
            raise ZeroDivisionError
        (folder / "whole").touch()

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            store.resumed("part", {"a": 1}, make)
    folder = store.resumed("part", {"a": 1}, make)
    assert begun == [0, 1, 2]
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert list(tmp_path.iterdir()) == [folder]
    assert store.resumed("part", {"a": 1}, make) == folder
    assert len(begun) == 3


def test_a_part_that_another_process_makes_is_not_made_beside_it(tmp_path):
    store = Store(tmp_path)

    def make(folder, unfinished):
        with pytest.raises(UserError, match="Another process makes this part"):
            store.resumed("part", {}, make)

    store.resumed("part", {}, make)
