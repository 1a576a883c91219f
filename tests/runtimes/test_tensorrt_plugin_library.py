"""The plugin as a library: which one a process has, and that it is the one that was named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpq_export.errors import RuntimeUnavailable
from mpq_export.runtimes.tensorrt.plugin import register_plugins
from mpq_export.runtimes.tensorrt.plugin_library import (
    PLUGIN_VARIABLE,
    load_plugin,
    loaded_library,
    named_plugin,
)


@dataclass(eq=False)
class Module:
    """A TensorRT whose registry keeps the first creators of a name, as the real one does."""

    takes: bool = True
    creators: dict[str, Any] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)

    def get_plugin_registry(self) -> Any:
        return SimpleNamespace(load_library=self.load, get_creator=self.creator)

    def load(self, name: str) -> object:
        if not self.takes:
            return None
        self.loaded.append(name)
        self.creators.setdefault("MPQLinear", name)
        return object()

    def creator(self, name: str, version: str, namespace: str) -> Any:
        assert (version, namespace) == ("1", "")
        return self.creators.get(name)


@pytest.fixture
def libraries(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "one.so", tmp_path / "two.so"
    for path in paths:
        path.touch()
    return paths


def test_a_library_is_loaded_once(libraries: tuple[Path, Path], tmp_path: Path) -> None:
    trt, (one, _) = Module(), libraries
    assert loaded_library(trt) is None
    load_plugin(trt, one)
    (tmp_path / "link.so").symlink_to(one)
    load_plugin(trt, tmp_path / "link.so")
    assert trt.loaded == [str(one)]
    assert loaded_library(trt) == one
    load_plugin(other := Module(), one)
    assert other.loaded == [str(one)], "another TensorRT has a registry of its own"


def test_a_second_library_is_refused(libraries: tuple[Path, Path]) -> None:
    trt, (one, two) = Module(), libraries
    load_plugin(trt, one)
    with pytest.raises(RuntimeUnavailable, match=r"two\.so.*those of .*one\.so.*another process"):
        load_plugin(trt, two)
    assert trt.loaded == [str(one)]


def test_a_library_and_the_plugin_in_python_are_not_mixed(libraries: tuple[Path, Path]) -> None:
    with pytest.raises(RuntimeUnavailable, match="those of the plugin in Python"):
        load_plugin(trt := Module(creators={"MPQLinear": "Python's"}), libraries[0])
    assert trt.loaded == []
    load_plugin(trt := Module(), libraries[0])
    with pytest.raises(RuntimeUnavailable, match=r"from a library already.*one\.so"):
        register_plugins(trt, None, 4)


def test_one_that_tensorrt_refuses_is_no_library(libraries: tuple[Path, Path]) -> None:
    with pytest.raises(RuntimeUnavailable, match="registry does not take it"):
        load_plugin(trt := Module(takes=False), libraries[0])
    assert loaded_library(trt) is None


def test_the_named_library_must_be_there(
    libraries: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLUGIN_VARIABLE, raising=False)
    assert named_plugin() is None
    monkeypatch.chdir(libraries[0].parent)
    monkeypatch.setenv(PLUGIN_VARIABLE, "one.so")
    assert named_plugin() == libraries[0]
    monkeypatch.setenv(PLUGIN_VARIABLE, "three.so")
    with pytest.raises(RuntimeUnavailable, match="no such file"):
        named_plugin()
