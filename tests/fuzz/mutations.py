"""Mutations that know the structure of what they spoil: JSON, tensors, bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np

NUMBERS = (
    0, 1, -1, 2, 7, 8, 9, 31, 32, 33, 127, 128, 255, 256, 4096, 4097, 66311, 66312, 2**31 - 1,
    2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), 10**100, 0.5, 1e308, -0.0,
)  # fmt: skip
_VALUES = (*NUMBERS, None, True, False, "", "mpq", "\x00", "é", "../x", [], {}, [1], [1, 2, 3, 4])
_TYPES = ("<f4", "<f8", "<f2", "<i4", "<i8", "|i1", "|u1", "<u4", "|b1")


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """Change one place of a JSON file: another value, no value, a key twice, two values swapped."""
    value = json.loads(data)
    parent, key = rng.choice(_places(value))
    action = rng.randrange(4)
    if action == 0:
        parent[key] = rng.choice(_VALUES)
    elif action == 1:
        del parent[key]
    elif action == 2:
        other, place = rng.choice(_places(value))
        parent[key] = json.loads(json.dumps(other[place]))
    else:
        text = json.dumps(value)
        name = json.dumps(str(key))
        return text.replace(
            f"{name}:", f"{name}: {json.dumps(rng.choice(_VALUES))}, {name}:", 1
        ).encode()
    return json.dumps(value).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys or indices."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    found: list[tuple[Any, Any]] = []
    for key in keys:
        found.append((value, key))
        found += _places(value[key])
    return found


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip bits, cut, repeat, or overwrite with what is dangerous."""
    changed = bytearray(data)
    action = rng.randrange(5)
    if action == 0 or not changed:
        return bytes(changed[: rng.randrange(len(changed) + 1)])
    for _ in range(rng.choice((1, 1, 1, 4, 32))):
        place = rng.randrange(len(changed))
        if action == 1:
            changed[place] ^= 1 << rng.randrange(8)
        elif action == 2:
            changed[place : place + 8] = rng.choice((b"\0" * 8, b"\xff" * 8, b"\0" * 7 + b"\x80"))
        elif action == 3:
            end = place + rng.randrange(1, 64)
            changed[place:place] = changed[place:end]
        else:
            changed[place] = rng.randrange(256)
    return bytes(changed)


def mutate_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """Another value, order, type or shape."""
    array = array.copy()
    action = rng.choice(_ARRAY_ACTIONS)
    with np.errstate(all="ignore"):
        return action(rng, array)


def _set_value(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """A boundary value of the type."""
    if not array.size:
        return array
    flat = array.reshape(-1).view(f"u{array.itemsize}")
    top = 2 ** (8 * array.itemsize)
    special = (0, 1, top - 1, top // 2, top // 2 - 1, 0x7F800000 % top, 0x7FC00000 % top,
               rng.randrange(top), rng.randrange(16))  # fmt: skip
    flat[rng.randrange(flat.size)] = rng.choice(special)
    return array


def _flip_bit(rng: random.Random, array: np.ndarray) -> np.ndarray:
    if array.size:
        raw = array.reshape(-1).view(np.uint8)
        raw[rng.randrange(raw.size)] ^= 1 << rng.randrange(8)
    return array


def _swap_values(rng: random.Random, array: np.ndarray) -> np.ndarray:
    flat = array.reshape(-1)
    if flat.size:
        one, other = rng.randrange(flat.size), rng.randrange(flat.size)
        flat[one], flat[other] = flat[other].copy(), flat[one].copy()
    return array


def _retype(rng: random.Random, array: np.ndarray) -> np.ndarray:
    return array.astype(rng.choice(_TYPES))


def _reshape(rng: random.Random, array: np.ndarray) -> np.ndarray:
    forms: tuple[Callable[[], np.ndarray], ...] = (
        lambda: array.reshape(-1),
        lambda: array[None],
        lambda: array.T,
        lambda: array.reshape(-1)[: rng.randrange(array.size + 1)],
        lambda: np.concatenate([array.reshape(-1)] * 2),
        lambda: np.resize(array, (rng.randrange(40), rng.randrange(1, 40))),
    )
    return rng.choice(forms)()


def _reverse(_: random.Random, array: np.ndarray) -> np.ndarray:
    return array[::-1] if array.ndim else array


_ARRAY_ACTIONS = (
    _set_value, _set_value, _set_value, _flip_bit, _flip_bit, _swap_values, _swap_values, _retype,
    _reshape, _reverse,
)  # fmt: skip
