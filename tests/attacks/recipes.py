"""Attacks on recipe files and prompt files: YAML bombs, objects, nonsense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mpq_export.files import text_lines
from mpq_export.methods import DEFAULT_METHOD, chosen_recipe

from .attack import CORRECT, Attack, Place

AREA = "recipes"


def read_recipe(path: Path) -> None:
    """The door: what ``--recipe`` does with a file."""
    choice = chosen_recipe(None, path, "w3a4")
    assert choice.recipe.method == DEFAULT_METHOD


def read_prompts(path: Path) -> None:
    """The door: what ``--prompts`` does with a file."""
    assert all(line == line.strip() and line for line in text_lines(path))


def _file(content: str | bytes) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        path = place.folder / "recipe.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def _touching(text: str) -> Callable[[Place], Path]:
    """Code that would create the canary, where ``CANARY`` stands."""

    def make(place: Place) -> Path:
        return _file(text.replace("CANARY", str(place.canary)))(place)

    return make


def _folder(place: Place) -> Path:
    return place.folder


def _link_to_nothing(place: Place) -> Path:
    path = place.folder / "recipe.yaml"
    path.symlink_to(place.folder / "nothing")
    return path


def _device(_place: Place) -> Path:
    return Path("/dev/zero")


LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
OBJECTS = {
    "a Python object": "method: !!python/object/apply:os.system ['touch CANARY']",
    "a Python call": "!!python/object/new:os.system ['touch CANARY']",
    "a Python module": "method: !!python/module:os",
    "a tag of its own": "method: !evil touch CANARY",
    "a type that YAML knows": "layers: !!set {a, b}",
}
FILES: dict[str, str | bytes] = {
    "a billion laughs": LAUGHS,
    "an anchor that holds itself": "layers: &a [*a]",
    "a merge key": "layers: {<<: {match: a}}",
    "100,000 brackets": "layers: " + "[" * 100_000,
    "nesting of 60": "layers: " + "[" * 60 + "]" * 60,
    "two megabytes": "a: " + "x" * (2 << 20),
    "a key twice": "bits: w3a4\nbits: w4a8",
    "keys that are numbers": "1: 2",
    "two documents": "method: rtn\n---\nmethod: mpq-dm",
    "bytes that are no text": b"\xff\xfe\x00method",
    "control characters": "method: \x1b]0;owned\x07",
    "nothing": "",
    "a list": "- method",
    "a method that is a list": "method: [rtn]",
    "a method that is a path": "method: ../../etc/passwd",
    "bits that are a number": "bits: 34",
    "a million images": "calibration_images: 1000000",
    "images below one": "calibration_images: -1",
    "images that are not finite": "calibration_images: .inf",
    "an option that does not exist": "__class__: evil",
    "a rule that is text": "layers: [match]",
    "a rule without a pattern": "layers: [{bits: w3a4}]",
    "a pattern of 100,000 stars": f"layers: [{{match: '{'*' * 100_000}'}}]",
    "100,000 rules": "layers: [" + "{match: a}, " * 80_000 + "]",
    "bits of a rule out of range": "layers: [{match: a, bits: w99a99}]",
    "a reason that is a list": "layers: [{match: a, keep: [1, 2]}]",
}
PROMPTS: dict[str, str | bytes] = {
    "prompts that are no text": b"\xff\xfe\x00",
    "prompts of blank lines": "\n \n\t\n",
    "two megabytes of prompts": "a cat\n" * 400_000,
}

ATTACKS = [
    *(Attack(AREA, what, _touching(text), read_recipe) for what, text in OBJECTS.items()),
    *(Attack(AREA, what, _file(content), read_recipe) for what, content in FILES.items()
      if what != "nothing"),
    Attack(AREA, "a folder", _folder, read_recipe),
    Attack(AREA, "a link to nothing", _link_to_nothing, read_recipe),
    Attack(AREA, "a device without end", _device, read_recipe),
    *(Attack(AREA, what, _file(content), read_prompts) for what, content in PROMPTS.items()),
    Attack(AREA, "prompts of control characters", _file("\x1b[2Ja cat\x07\n"), read_prompts,
           CORRECT),
    Attack(AREA, "prompts: a device without end", _device, read_prompts),
    Attack(AREA, "an empty file", _file(FILES["nothing"]), read_recipe),
]  # fmt: skip
