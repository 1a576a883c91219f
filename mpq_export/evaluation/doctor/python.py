"""The interpreter and the packages: versions, least versions, and which command needs what."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires

from ... import __version__
from ...packages import installed_version
from .finding import Finding

_PROJECT = "mpq-export"
_LEAST_PYTHON = (3, 11)
_USES = {
    "numpy": "every command",
    "onnx": "every command",
    "pydantic": "every command",
    "rich": "every command",
    "safetensors": "every command",
    "typer": "every command",
    "onnxruntime": "mpq-sample and mpq-check with --runtime ort or onnx",
    "torch": "mpq-export of a checkpoint, --runtime torch",
    "diffusers": "mpq-export of a checkpoint, --runtime torch",
    "huggingface-hub": "mpq-export of a hub id",
    "accelerate": "mpq-export of a checkpoint, --runtime torch",
    "onnxscript": "mpq-export to any target",
    "onnx-graphsurgeon": "mpq-check",
    "polygraphy": "mpq-check",
    "pillow": "mpq-sample",
    "pyyaml": "mpq-export --recipe",
    "transformers": "pipelines that draw from a text",
    "torchmetrics": "image quality",
    "matplotlib": "mpq-export with training",
    "scikit-learn": "the digits demo",
    "scikit-image": "the photos model",
}
"""What needs a package. What is not named here is not looked at."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9][0-9.]*))?[^;]*(?:;\s*(.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


@dataclass(frozen=True)
class Requirement:
    """A package, its least version (may be empty) and the extra that installs it (None: always)."""

    package: str
    least: str
    extra: str | None


def python_findings() -> list[Finding]:
    """The interpreter, then every package that a command needs."""
    return [_interpreter(), *(_package(requirement) for requirement in requirements())]


def requirements() -> Iterator[Requirement]:
    """What the installed package's own metadata asks for, of what some command needs."""
    try:
        lines = requires(_PROJECT) or []
    except PackageNotFoundError:
        lines = list(_USES)
    seen: set[str] = set()
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match is None or match[1] not in _USES or match[1] in seen:
            continue
        seen.add(match[1])
        extra = _EXTRA.search(match[3] or "")
        yield Requirement(match[1], match[2] or "", extra[1] if extra else None)


def _interpreter() -> Finding:
    good = sys.version_info >= _LEAST_PYTHON
    advice = "" if good else f"Install Python {'.'.join(map(str, _LEAST_PYTHON))} or newer"
    return Finding("Python", good, f"{platform.python_version()}, mpq-export {__version__}", advice)


def _package(requirement: Requirement) -> Finding:
    name, least, use = requirement.package, requirement.least, _USES[requirement.package]
    wanted = f"{least} or newer" if least else "any version"
    extra = f"[{requirement.extra}]" if requirement.extra else ""
    advice = f"pip install --upgrade '{_PROJECT}{extra}'"
    for candidate in (name, f"{name}-gpu"):
        version = installed_version(candidate)
        if version is None:
            continue
        if _numbers(version) < _numbers(least):
            detail = f"{version} is too old: {use} needs {wanted}"
            return Finding(candidate, False, detail, advice)
        return Finding(candidate, True, f"{version} ({wanted}), for {use}")
    return Finding(name, False, f"not installed; {use} needs {wanted}", advice)


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version; ``2.13.0+cpu`` is (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
