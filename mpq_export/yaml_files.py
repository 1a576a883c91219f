"""YAML as plain data: no aliases, anchors or tags, no key twice, bounded in size and depth."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError

MAX_YAML_BYTES = 1 << 20
MAX_DEPTH = 50


def read_yaml(path: Path, error: type[UserError]) -> dict[str, Any]:
    """The one mapping that a YAML file holds; all its keys are text.

    Raises ``error`` for anything else: what a YAML bomb or an object of Python needs is refused
    while the file is scanned, before any of it is built.
    """
    if path.exists() and not path.is_file():
        raise error("The file cannot be read", where=path, why="It is not a regular file")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
    except OSError as problem:
        raise error("The file cannot be read", where=path, why=str(problem.strerror)) from problem
    if len(data) > MAX_YAML_BYTES:
        raise error(
            "The file is too large for YAML", where=path, why=f"At most {MAX_YAML_BYTES} bytes"
        )
    try:
        text = data.decode("utf-8")
        _require_plain(text)
        value = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        why = " ".join(str(problem).split())
        raise error("The file is not plain YAML", where=path, why=why) from problem
    if not isinstance(value, dict):
        raise error("The file is not a YAML mapping", where=path)
    return value


def _require_plain(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line}: anchors and aliases are not read")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line}: tags are not read")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line}: nested deeper than {MAX_DEPTH}")


class _PlainLoader(yaml.SafeLoader):
    """Refuses what PyYAML lets pass: a key twice, merge keys, keys that are not text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are different texts."""
        seen = set()
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                raise ValueError(f"line {line}: the key is not text; put it in quotes")
            if key_node.value in seen:
                raise ValueError(f"line {line}: the key '{key_node.value}' appears twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)
