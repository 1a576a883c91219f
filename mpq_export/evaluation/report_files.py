"""A report as two files beside each other: figures for programs, a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import staged_file, write_json


def write_report(folder: Path, name: str, figures: Mapping[str, Any], text: str) -> None:
    """Write ``NAME.json`` and ``NAME.md``, each atomically."""
    with staged_file(folder / f"{name}.json") as stage:
        write_json(stage, figures)
    with staged_file(folder / f"{name}.md") as stage:
        stage.write_text(text, encoding="utf-8")


def machine_line(machine: Mapping[str, str]) -> str:
    """What ``describe_machine`` says, as a line of a page."""
    return f"Machine: {', '.join(f'{name} {value}' for name, value in machine.items())}."
