"""The fuzzer: mutates bundles and packed layers, and asserts what must hold of every outcome.

    make fuzz SECONDS=60 SEED=0

Only UserError and ContractError may be raised; what is accepted must be sound; memory is limited.
One seed gives one sequence of inputs. An input that breaks a rule is written to ``out/fuzz``.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import resource
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fixtures
import numpy as np
from safetensors.numpy import load, save
from soundness import assert_sound_bundle, assert_sound_layer

from mpq_export.bundle import CORE_FILES, WEIGHTS, read_bundle, write_bundle
from mpq_export.core.integer_reference import ConvGeometry, PackedLayer, check_layer
from mpq_export.core.planes import ContractError
from mpq_export.errors import UserError
from mpq_export.files import MANIFEST, write_manifest

from .mutations import NUMBERS, mutate_array, mutate_bytes, mutate_json

MEMORY = 512 << 20
Files = dict[str, bytes]


class Fuzzer:
    """A deterministic sequence of mutated inputs; ``counts`` says what became of them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng, self.folder, self.counts = random.Random(seed), folder, Counter[str]()
        base = fixtures.handmade_bundle(folder / "base")
        base.path.mkdir()
        write_bundle(base.path, base)
        self.layers = list(base.layers.values())
        self.files = {name: (base.path / name).read_bytes() for name in (*CORE_FILES, MANIFEST)}

    def step(self) -> None:
        """One bundle and eight layers; raises on a broken rule."""
        self._judge("bundle", self.mutated_files(), self.read_files)
        for _ in range(8):
            self._judge("layer", self.mutated_layer(), read_layer)

    def _judge(self, kind: str, value: Any, read: Callable[[Any], None]) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read(value)
            self.counts[f"{kind} accepted"] += 1
        except (UserError, ContractError):
            self.counts[f"{kind} refused"] += 1
        except BaseException as error:
            error.add_note(f"the input is kept in {_keep(kind, value)}")
            raise

    def read_files(self, files: Files) -> None:
        """Write a bundle's files and read them back; what is accepted must be sound."""
        target = self.folder / "bundle"
        shutil.rmtree(target, ignore_errors=True)
        for name, data in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)
        assert_sound_bundle(read_bundle(target))

    def mutated_files(self) -> Files:
        """One to three mutations; hashes are fixed up three times out of four."""
        files = dict(self.files)
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            name = self.rng.choice((*CORE_FILES, WEIGHTS, WEIGHTS, MANIFEST))
            files[name] = self._mutated_file(name, files[name])
        if self.rng.random() < 0.75:
            files[MANIFEST] = self._signed(files)
        return files

    def _mutated_file(self, name: str, data: bytes) -> bytes:
        if self.rng.random() < 0.2:
            return mutate_bytes(self.rng, data)
        try:
            return self._mutated_tensors(data) if name == WEIGHTS else mutate_json(self.rng, data)
        except Exception:  # an earlier mutation left nothing to understand
            return mutate_bytes(self.rng, data)

    def _mutated_tensors(self, data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        if self.rng.random() < 0.25:
            header = mutate_json(self.rng, data[8 : 8 + size])
            return len(header).to_bytes(8, "little") + header + data[8 + size :]
        tensors = load(data)
        name, other = self.rng.choice(sorted(tensors)), self.rng.choice(sorted(tensors))
        action = self.rng.randrange(8)
        if action == 0:
            del tensors[name]
        elif action == 1:
            tensors[name] = tensors[other]
        elif action == 2:
            tensors[f"{name}.{self.rng.choice(('planes', 'x', ''))}"] = tensors[other]
        else:
            tensors[name] = mutate_array(self.rng, tensors[name])
        return save({key: np.array(value, order="C") for key, value in tensors.items()})

    def _signed(self, files: Files) -> bytes:
        stage = self.folder / "signed"
        shutil.rmtree(stage, ignore_errors=True)
        for name in CORE_FILES:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_bytes(files[name])
        write_manifest(stage, CORE_FILES)
        return (stage / MANIFEST).read_bytes()

    def mutated_layer(self) -> PackedLayer:
        """One to three fields of a layer, its matrix or its geometry are changed."""
        layer = self.rng.choice(self.layers)
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            part = self.rng.randrange(8)
            if part < 4:
                layer = replace(layer, weight=self._changed(layer.weight))
            elif part < 7 or layer.conv is None:
                layer = self._changed(layer, skip=("weight", "conv"))
            else:
                layer = replace(layer, conv=self._changed_geometry(layer.conv))
        return layer

    def _changed(self, value: Any, skip: tuple[str, ...] = ()) -> Any:
        name = self.rng.choice([key for key in value.__dataclass_fields__ if key not in skip])
        old = getattr(value, name)
        if isinstance(old, np.ndarray):
            return replace(value, **{name: mutate_array(self.rng, old)})
        return replace(value, **{name: self._whole_number()})

    def _changed_geometry(self, conv: ConvGeometry) -> ConvGeometry:
        name = self.rng.choice(("kernel_shape", "strides", "pads", "dilations", "group"))
        if name == "group":
            return replace(conv, group=self._whole_number())
        values = list(getattr(conv, name))
        values[self.rng.randrange(len(values))] = self._whole_number()
        return replace(conv, **{name: tuple(values)})

    def _whole_number(self) -> int:
        small = self.rng.random() < 0.5
        return self.rng.randrange(-2, 70) if small else int(self.rng.choice(NUMBERS[:-4]))


def read_layer(layer: PackedLayer) -> None:
    """Check a layer; what is accepted must be sound."""
    check_layer(layer)
    assert_sound_layer(layer)


@contextmanager
def limited_memory() -> Iterator[None]:
    """This process may grow by MEMORY bytes."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def fuzz(seed: int, goes_on: Callable[[int], bool]) -> Counter[str]:
    """Fuzz as long as ``goes_on(steps done)``; returns what became of the inputs."""
    with tempfile.TemporaryDirectory() as folder, limited_memory():
        fuzzer, steps = Fuzzer(seed, Path(folder)), 0
        while goes_on(steps):
            fuzzer.step()
            steps += 1
    return fuzzer.counts


def _keep(kind: str, value: Any) -> Path:
    """Save an input that broke a rule; for our own eyes, so a pickle will do."""
    folder = Path(os.environ.get("FUZZ_OUT", "out/fuzz"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}-{time.time_ns()}.pickle"
    path.write_bytes(pickle.dumps(value))
    return path


def main() -> None:
    """Fuzz for some seconds and print what became of the inputs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    counts = fuzz(options.seed, lambda _: time.monotonic() < end)
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
