"""Folders and files that appear whole or not at all, and JSON that means one thing."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from mpq_export import files
from mpq_export.errors import BundleError, CheckpointError, UserError
from mpq_export.files import (
    MANIFEST,
    parse_json,
    read_json,
    read_manifest,
    require_writable,
    staged_file,
    staged_folder,
    verified_bytes,
    write_json,
    write_manifest,
)


class Interrupted(Exception):
    """Whatever ends a block early."""


def write_folder(target: Path, text: str) -> None:
    """A replaceable folder with one more file."""
    with staged_folder(target) as stage:
        (stage / "text").write_text(text)
        write_manifest(stage, ["text"])


def half_write_folder(target: Path, error: type[BaseException]) -> None:
    """What is left of :func:`write_folder` when it ends early."""
    with staged_folder(target) as stage:
        (stage / "text").write_text("half")
        raise error


def half_write_file(target: Path) -> None:
    """A staged file whose block ends early."""
    with staged_file(target) as stage:
        stage.write_text("half")
        raise Interrupted


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- folders ----------------------------------------------------------------------------------


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "out"
    with staged_folder(target) as stage:
        (stage / "sub").mkdir()
        (stage / "sub" / "file").write_text("new")
        assert not target.exists()
        assert stage.stat().st_dev == tmp_path.stat().st_dev
    assert (target / "sub" / "file").read_text() == "new"
    assert names(target.parent) == {"out"}


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", "new")
    assert (tmp_path / "out" / "text").read_text() == "new"


def test_a_folder_written_earlier_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_folder(target, "old")
    (target / "onnx").mkdir()
    write_folder(target, "new")
    assert (target / "text").read_text() == "new"
    assert names(target) == {MANIFEST, "text"}
    assert names(tmp_path) == {"out"}


def test_a_folder_with_somebody_elses_file_is_kept(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", "old")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        write_folder(tmp_path / "out", "new")
    assert names(tmp_path / "out") == {MANIFEST, "text", "notes.txt"}


@pytest.mark.parametrize("exchange", [True, False])
def test_ctrl_c_while_folders_are_swapped_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """With one exchange there is no moment without a folder; without it the old one comes back."""
    target, rename = tmp_path / "out", os.rename
    write_folder(target, "old")
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)

    def ctrl_c(source: Path, destination: Path) -> None:
        rename(source, destination)
        monkeypatch.setattr(os, "rename", rename)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        write_folder(target, "new")
    assert (target / "text").read_text() == ("new" if exchange else "old")
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        half_write_folder(tmp_path / "out", error)
    assert names(tmp_path) == set()


def test_a_block_that_raises_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_folder(target, "old")
    with pytest.raises(Interrupted):
        half_write_folder(target, Interrupted)
    assert (target / "text").read_text() == "old"
    assert names(tmp_path) == {"out"}


def test_the_old_content_survives_when_the_new_cannot_take_its_place(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_folder(target, "old")
    with pytest.raises(UserError), staged_folder(target) as stage:
        stage.rmdir()
    assert (target / "text").read_text() == "old"
    assert names(tmp_path) == {"out"}


def test_a_write_that_fails_is_a_user_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="Writing failed") as caught,
        staged_folder(tmp_path / "out") as stage,
    ):
        (stage / "no" / "such").write_text("")
    assert "No such file" in caught.value.why
    assert names(tmp_path) == set()


def test_a_user_error_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="mine"), staged_folder(tmp_path / "out"):
        raise BundleError("mine")


def test_a_foreign_folder_with_a_manifest_of_its_own_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text('{"name": "a web app", "versions": {"app": "1"}}')
    with pytest.raises(UserError, match="holds other files"):
        write_folder(tmp_path / "out", "new")
    assert names(tmp_path / "out") == {MANIFEST}


def test_a_foreign_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="holds other files"):
        write_folder(tmp_path / "out", "new")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years"
    assert names(tmp_path) == {"out"}


def test_a_mark_that_is_a_folder_is_no_mark(tmp_path: Path) -> None:
    (tmp_path / "out" / MANIFEST).mkdir(parents=True)
    with pytest.raises(UserError, match="holds other files"):
        write_folder(tmp_path / "out", "new")


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="not a folder"):
        write_folder(tmp_path / "out", "new")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("destination", ["elsewhere", "nowhere"])
def test_a_link_is_not_replaced_by_a_folder(tmp_path: Path, destination: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / destination)
    with pytest.raises(UserError, match="not a folder"):
        write_folder(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink()


def test_a_file_in_place_of_the_parent_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_folder(tmp_path / "file" / "out", "new")


@pytest.mark.parametrize("length", [250, 300])
def test_a_name_that_is_too_long_is_a_user_error(tmp_path: Path, length: int) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_folder(tmp_path / ("n" * length), "new")


def test_a_relative_target_may_be_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("out"), "new")
    assert (tmp_path / "out" / "text").read_text() == "new"
    monkeypatch.chdir(tmp_path / "out")
    write_folder(Path("."), "newer")
    assert (tmp_path / "out" / "text").read_text() == "newer"


def test_a_folder_that_forbids_writing_is_a_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the refusal is played.
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        write_folder(tmp_path / "out", "new")


def test_new_folders_are_as_open_as_the_umask_allows(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    write_folder(tmp_path / "out", "new")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


# --- files ------------------------------------------------------------------------------------


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "grid.png"
    with staged_file(target) as stage:
        assert stage.suffix == ".png"
        stage.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == {"grid.png"}
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("existing", [None, "old"])
def test_a_file_whose_block_raises_is_as_it_was(tmp_path: Path, existing: str | None) -> None:
    target = tmp_path / "grid.png"
    if existing is not None:
        target.write_text(existing)
    with pytest.raises(Interrupted):
        half_write_file(target)
    assert names(tmp_path) == ({"grid.png"} if existing else set())
    if existing is not None:
        assert target.read_text() == existing


def test_a_file_that_exists_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "grid.png"
    target.write_text("old")
    with staged_file(target) as stage:
        stage.write_text("new")
    assert target.read_text() == "new"


def test_a_parent_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), staged_file(tmp_path / "file" / "x"):
        pass


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError), staged_file(tmp_path / "out") as stage:
        stage.write_text("new")
    assert names(tmp_path) == {"out"}


# --- JSON -------------------------------------------------------------------------------------


def test_json_comes_back(tmp_path: Path) -> None:
    data = {
        "text": "Grüße \u2028",
        "numbers": [1, -2.5, 1e-300, 2**70],
        "no": None,
        "deep": {"": {}},
    }
    write_json(tmp_path / "a.json", data)
    written = (tmp_path / "a.json").read_bytes()
    assert written.endswith(b"}\n")
    assert "Grüße".encode() in written
    assert parse_json(written, tmp_path / "a.json", UserError) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1, "b": 2, "a": 1}', "a key appears twice"),
        (b'{"b": [{"a": 1, "a": 1}]}', "a key appears twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": Infinity}', "Infinity is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "not valid JSON"),
        (b'{"a": "\xe9"}', "not valid JSON"),
        (b'{"a": "\n"}', "not valid JSON"),
        (b'{"a": 1}'.decode().encode("utf-16"), "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"text"', "not a JSON object"),
    ],
)
def test_what_is_not_one_json_object_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        parse_json(data, Path("some.json"), CheckpointError)
    assert caught.value.where == "some.json"


# --- manifests --------------------------------------------------------------------------------


def test_a_manifest_lists_hashes_sizes_and_versions(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"content")
    write_manifest(tmp_path, ["sub/a"])
    manifest = read_manifest(tmp_path, ["sub/a"], BundleError, "")
    assert manifest == {"sub/a": {"sha256": hashlib.sha256(b"content").hexdigest(), "size": 7}}
    assert verified_bytes(tmp_path, "sub/a", manifest, BundleError) == b"content"
    written = parse_json((tmp_path / MANIFEST).read_bytes(), tmp_path, BundleError)
    assert {"mpq-export", "numpy", "onnx"} <= written["versions"].keys()


def test_the_asker_chooses_the_error_and_the_fix(tmp_path: Path) -> None:
    write_manifest(tmp_path, [])
    with pytest.raises(CheckpointError, match=r"Expected a\. Do this") as caught:
        read_manifest(tmp_path, ["a"], CheckpointError, "Do this")
    assert caught.value.where == str(tmp_path / MANIFEST)


def test_json_is_verified_before_it_is_parsed(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    write_manifest(tmp_path, ["a.json"])
    manifest = read_manifest(tmp_path, ["a.json"], BundleError, "")
    assert read_json(tmp_path, "a.json", manifest, BundleError) == {"a": 1}
    (tmp_path / "a.json").write_text("nonsense")
    with pytest.raises(BundleError, match="not the one that was written"):
        read_json(tmp_path, "a.json", manifest, BundleError)


def test_a_file_that_cannot_be_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("a")
    write_manifest(tmp_path, ["a"])
    manifest = read_manifest(tmp_path, ["a"], BundleError, "")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BundleError, match="Permission denied"):
        verified_bytes(tmp_path, "a", manifest, BundleError)


def test_whether_a_file_can_be_written_is_asked_without_a_trace(tmp_path):
    (tmp_path / "there").write_text("kept")
    for name in ("new.json", "deep/er/new.json", "there"):
        require_writable(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "kept"
    for name in ("", "there/new.json", "n" * 300):
        with pytest.raises(UserError, match="The file cannot be written"):
            require_writable(tmp_path / name)
