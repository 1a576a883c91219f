"""YAML is data here: what could grow or act is refused before it is built."""

import os

import pytest

from mpq_export.errors import RecipeError
from mpq_export.yaml_files import MAX_DEPTH, MAX_YAML_BYTES, read_yaml


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / "f.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_yaml(path, RecipeError)

    return read_text


def test_plain_data(read):
    text = "a: 1\nb: [1.5, x, null, true]\nc: {d: 'e', '1': 1.0e-4}\n# comment\n"
    expected = {"a": 1, "b": [1.5, "x", None, True], "c": {"d": "e", "1": 1e-4}}
    assert read(text) == expected
    assert read("--- \na: ä\n...\n") == {"a": "ä"}


BOMB = "a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n"
REFUSED = {
    "a bomb": (BOMB, "anchors and aliases"),
    "a large bomb": (
        "a0: &a0 x\n"
        + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)),
        "line 1: anchors",
    ),
    "an anchor": ("a: &b 1", "anchors"),
    "an anchored key": ("&b a: 1", "anchors"),
    "an anchored mapping": ("a: &b {c: 1}", "anchors"),
    "an alias to nothing": ("a: *b", "aliases"),
    "itself": ("a: &a [*a]", "anchors"),
    "a merge": ("a: {<<: {b: 1}}", "not text"),
    "an object": ("a: !!python/object/apply:os.system ['true']", "tags"),
    "a tag": ("a: !!str 1", "tags"),
    "a local tag": ("a: !x 1", "tags"),
    "a tagged mapping": ("!!map {a: 1}", "tags"),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' appears twice"),
    "an inner key twice": ("a: {b: 1, b: 1}", "appears twice"),
    "a number as key": ("1: 2", "not text"),
    "a word that is not text": ("on: 2", "not text"),
    "a list as key": ("? [a]\n: 1", "not text"),
    "too deep": ("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, "nested deeper"),
    "endless": ("[" * 100_000, "nested deeper"),
    "deep blocks": ("".join("- " for _ in range(5000)) + "x", "nested deeper"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "a list": ("- a", "not a YAML mapping"),
    "text": ("a", "not a YAML mapping"),
    "nothing": ("", "not a YAML mapping"),
    "not UTF-8": (b"a: \xff", "not plain YAML"),
    "control characters": (b"a: \x00", "not plain YAML"),
    "not YAML": ("a: [1", "not plain YAML"),
    "a tab": ("a:\n\t- b", "not plain YAML"),
    "too many digits": ("a: " + "9" * 10_000, "not plain YAML"),
    "no such day": ("a: 2020-13-77", "not plain YAML"),
    "too large": (b"a: " + b"x" * MAX_YAML_BYTES, "too large"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_all_else_is_refused(read, case):
    text, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        read(text)


def test_files_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "no.yaml", tmp_path / "pipe.yaml"):
        with pytest.raises(RecipeError, match="cannot be read"):
            read_yaml(path, RecipeError)
