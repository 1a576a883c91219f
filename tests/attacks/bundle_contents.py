"""Attacks on what a bundle says: its tensors and its quantization_config, hashes fixed up."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save

from mpq_export.bundle import CONFIG, OUTPUT_BIAS, TIMESTEPS, WEIGHTS
from mpq_export.bundle_features import FEATURE_TENSORS
from mpq_export.core.planes import MAX_COLUMNS

from .attack import CORRECT, EITHER, REFUSED, Attack, Outcome
from .bundle_files import read
from .bundles import Make, Tensors, with_bytes, with_json, with_tensors

TENSORS, CONFIGS = "bundle tensors", "bundle config"
FC, DW, OUT = "blocks.0.fc", "blocks.0.dw", "out"
"""Linear of mixed planes with factors and shifts; grouped convolution; 8-bit linear."""
_TYPES = (np.float64, np.float16, np.int64, np.int8, np.uint8, np.bool_, np.complex64)


def _tensor(
    name: str, make: Make, names: str = "weights", allowed: frozenset[Outcome] = REFUSED
) -> Attack:
    return Attack(TENSORS, name, make, read, allowed, names)


def _set(name: str, index: Any, value: Any) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors[name].__setitem__(index, value)


def _replace(name: str, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: edit(tensors[name])})


def _swap_rows(tensors: Tensors) -> None:
    """Two sorted rows of unequal plane count change places: a permutation, and not sorted."""
    order = tensors[f"{FC}.row_order"]
    order[[0, -1]] = order[[-1, 0]]


def _reverse_equal_rows(tensors: Tensors) -> None:
    order = tensors[f"{FC}.row_order"]
    order[[0, 1]] = order[[1, 0]]


def _one_plane_less(tensors: Tensors) -> None:
    """A row of the grouped convolution loses its second plane, consistently everywhere."""
    tensors[f"{DW}.plane_rows"][1] = 3
    tensors[f"{DW}.planes"] = tensors[f"{DW}.planes"][:-1]
    tensors[f"{DW}.steps"][2, 3] = 0


INVARIANTS: dict[str, Callable[[Tensors], Any]] = {
    "a padding bit set": lambda t: t[f"{FC}.planes"].__setitem__((0, -1), -1),
    "a padding bit set in the last row": lambda t: t[f"{DW}.planes"].__ior__(np.int32(1 << 18)),
    "a negative step": _set(f"{OUT}.steps", (1, 0), -1),
    "an offset of -128": _set(f"{OUT}.steps", (0, 0), -128),
    "sums above 127": _set(f"{OUT}.steps", (slice(None), 0), 127),
    "sums that overflow int8 back into range": _set(f"{OUT}.steps", (slice(1, None), 0), 64),
    "a step of a plane the row lacks": _set(f"{FC}.steps", (3, -1), 1),
    "no plane for a row": _set(f"{FC}.plane_rows", 0, 4),
    "more planes than rows": _set(f"{FC}.plane_rows", 0, 6),
    "growing plane_rows": _replace(f"{FC}.plane_rows", lambda v: v[::-1]),
    "an empty last plane": _replace(f"{FC}.plane_rows", lambda v: np.append(v, 0).astype("i4")),
    "negative plane_rows": _set(f"{FC}.plane_rows", -1, -1),
    "plane_rows of 2^31 - 1": _set(f"{FC}.plane_rows", slice(None), 2**31 - 1),
    "plane_rows whose sum wraps": _set(f"{FC}.plane_rows", 0, -(2**31)),
    "nine planes": _replace(f"{FC}.plane_rows", lambda v: np.full(9, 5, np.int32)),
    "no planes at all": _replace(f"{FC}.plane_rows", lambda v: v[:0]),
    "a row twice in row_order": _set(f"{FC}.row_order", 0, 0),
    "row_order beyond the rows": _set(f"{FC}.row_order", 0, 5),
    "row_order of -1": _set(f"{FC}.row_order", 0, -1),
    "row_order of -2^31": _set(f"{FC}.row_order", 0, -(2**31)),
    "rows that are not sorted": _swap_rows,
    "equal rows out of order": _reverse_equal_rows,
    "unequal planes in a grouped convolution": _one_plane_less,
    **{
        f"a {tensor} of {value}": _set(f"{FC}.{tensor}", 0, value)
        for tensor in ("scale", "act_scale", "input_factor")
        for value in (np.nan, np.inf, -np.inf, 0, -1, 1e-40)
    },
    **{
        f"a {tensor} of {value}": _set(tensor, 0, value)
        for tensor in (f"{FC}.bias", "norm.weight", OUTPUT_BIAS)
        for value in (np.nan, np.inf, -np.inf)
    },
    "a zero point of -1": _set(f"{FC}.act_zero_point", 0, -1),
    "a zero point of 2^a": _set(f"{FC}.act_zero_point", 0, 16),
    "a zero point of 2^31 - 1": _set(f"{FC}.act_zero_point", 0, 2**31 - 1),
    "a negative shift": _set(f"{FC}.input_shift", 0, -1),
    "a shift that exceeds 8 bits": _set(f"{FC}.input_shift", 0, 5),
    "a shift of 127": _set(f"{FC}.input_shift", 0, 127),
    "default factors stored": lambda t: t.update({f"{OUT}.input_factor": np.ones(32, np.float32)}),
    "default shifts stored": lambda t: t.update({f"{OUT}.input_shift": np.zeros(32, np.int8)}),
    "a layer's table one entry short": lambda t: t.update(
        {f"{FC}.{k}": t[f"{FC}.{k}"][:-1] for k in ("act_scale", "act_zero_point")}
    ),
    "a model's table one entry long": lambda t: t.update(
        {k: np.append(t[k], t[k][:1]) for k in (TIMESTEPS, OUTPUT_BIAS)}
    ),
    "empty tables everywhere": lambda t: t.update(
        {
            k: v[:0] for k, v in t.items()
            if k.endswith(("act_scale", "act_zero_point", TIMESTEPS, OUTPUT_BIAS))
        }
    ),
    "a tensor under a layer's name": lambda t: t.update({f"{FC}.extra": np.zeros(1, np.float32)}),
    "a tensor deep under a layer's name": lambda t: t.update(
        {f"{FC}.planes.planes": np.zeros(1, np.float32)}
    ),
    "a parameter that is not float32": lambda t: t.update(more=np.zeros(1, np.float64)),
    "a parameter of whole numbers": lambda t: t.update(more=np.zeros(1, np.int32)),
}  # fmt: skip


def _stored(kept: dict[str, Any], data: bytes) -> bytes:
    """A safetensors file of any header."""
    header = kept if isinstance(kept, bytes) else json.dumps(kept).encode()
    return struct.pack("<Q", len(header)) + header + data


def _header(edit: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        edited = edit(header)
        return _stored(header if edited is None else edited, data[8 + size :])

    return change


def _raw_header(edit: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        return _stored(edit(data[8 : 8 + size].rstrip()), data[8 + size :])

    return change


def _again(header: bytes) -> bytes:
    """The first tensor once more, under its own name."""
    first = json.loads(header)
    name = next(key for key in first if key != "__metadata__")
    return header[:-1] + f",{json.dumps(name)}:{json.dumps(first[name])}}}".encode()


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "a tensor twice": _raw_header(_again),
    "metadata twice": _raw_header(lambda h: h[:-1] + b',"__metadata__":{"format":"mpq"}}'),
    "a length of 2^63": lambda data: struct.pack("<Q", 1 << 63) + data[8:],
    "a length of 2^64 - 1": lambda data: b"\xff" * 8 + data[8:],
    "a length of 99 MB": lambda data: struct.pack("<Q", 99_000_000) + data[8:],
    "a length of 0": lambda data: struct.pack("<Q", 0) + data[8:],
    "a length one short": lambda d: struct.pack("<Q", int.from_bytes(d[:8], "little") - 1) + d[8:],
    "JSON 100,000 deep": lambda data: _stored(b'{"a":' * 100_000, b""),
    "a shape of 10^6 ones": _header(
        lambda h: h.update(x={"dtype": "F32", "shape": [1] * 10**6, "data_offsets": [0, 4]})
    ),
    "a shape whose product wraps to 0": _header(
        lambda h: h["norm.weight"].update(shape=[1 << 32, 1 << 32])
    ),
    "a shape of 2^62 beside 0": _header(lambda h: h["empty"].update(shape=[0, 1 << 62])),
    "a shape of -1": _header(lambda h: h["norm.weight"].update(shape=[-1])),
    "a shape of 4.0": _header(lambda h: h["norm.weight"].update(shape=[4.0])),
    "offsets that overlap": _header(
        lambda h: h.update({f"{OUT}.bias": h[f"{OUT}.bias"] | h[f"{OUT}.scale"]})
    ),
    "offsets backwards": _header(lambda h: h["norm.weight"]["data_offsets"].reverse()),
    "offsets beyond the end": _header(
        lambda h: h["norm.weight"].update(data_offsets=[1 << 40, (1 << 40) + 16])
    ),
    "offsets of 2^64": _header(lambda h: h["norm.weight"].update(data_offsets=[0, 1 << 64])),
    "an unknown type": _header(lambda h: h["norm.weight"].update(dtype="PICKLE")),
    **{
        f"type {dtype}": _header(lambda h, dtype=dtype: h["norm.weight"].update(dtype=dtype))
        for dtype in ("BF16", "F8_E4M3", "F4", "U32", "I32", "F16", "F64", "BOOL")
    },
    "metadata of numbers": _header(lambda h: h.update(__metadata__={"format": 5})),
    "a pickle": lambda _: b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "bytes after the tensors": lambda data: data + b"\0" * 64,
    "the tensors cut": lambda data: data[:-64],
    "a name of a million dots": lambda data: save({"." * 1_000_000: np.zeros(1, np.float32)}),
}
HARMLESS_HEADERS = {
    "a parameter under a name of a million dots": lambda t: t.update(
        {"a." * 500_000 + "b": np.zeros(1, np.float32)}
    ),
    "a parameter called __class__": lambda t: t.update(__class__=np.zeros(1, np.float32)),
    "a parameter called ../../x": lambda t: t.update({"../../x": np.zeros(1, np.float32)}),
    "100,000 timesteps": lambda t: t.update(
        {
            k: np.resize(v, (100_000, *v.shape[1:])) for k, v in t.items()
            if k.endswith(
                ("act_scale", "act_zero_point", TIMESTEPS, OUTPUT_BIAS, FEATURE_TENSORS["codes"])
            )
        }
    ),
    "timesteps at the ends of int32": _set(TIMESTEPS, slice(2), [-(2**31), 2**31 - 1]),
    "the largest scales": _set(f"{FC}.scale", slice(None), np.finfo(np.float32).max),
}  # fmt: skip


def _layer(name: str = FC, **change: Any) -> Make:
    return with_json(
        CONFIG, lambda data: data["quantization_config"]["layers"][name].update(change)
    )


def _quantization(**change: Any) -> Make:
    return with_json(CONFIG, lambda data: data["quantization_config"].update(change))


def _renamed(name: str) -> Make:
    """A layer of another name, in config alone: its tensors are then missing, if not refused."""

    def edit(data: dict[str, Any]) -> None:
        layers = data["quantization_config"]["layers"]
        layers[name] = layers.pop(FC)

    return with_json(CONFIG, edit)


def _without(key: str) -> Make:
    return with_json(CONFIG, lambda data: data["quantization_config"].pop(key))


LAYER_CONFIGS: dict[str, Make] = {
    **{
        f"a linear layer of K {value!r}": _layer(K=value)
        for value in (0, -1, 39, 41, 64, MAX_COLUMNS, MAX_COLUMNS + 1, 10**12, 10**400,
                      40.0, "40", True, None, [40])
    },
    **{
        f"{value!r} activation bits": _layer(act_bits=value)
        for value in (1, 9, 0, -4, 4.0, "4", True, None)
    },
    **{
        f"{key} of {value!r}": _layer(DW, **{key: value})
        for key in ("kernel_shape", "strides", "dilations")
        for value in ([0, 1], [-1, 2], [4097, 1], [10**9, 10**9], [1], [1, 1, 1], [], "33", 3,
                      [1.5, 1], [True, True], None, {})
    },
    **{
        f"pads of {value!r}": _layer(DW, pads=value)
        for value in ([-1, 0, 0, 0], [10**12] * 4, [1, 1], [1] * 5, None, "1111", [0.5] * 4)
    },
    **{
        f"group of {value!r}": _layer(DW, group=value)
        for value in (0, -2, 3, 10**30, 1.0, "2", None, True)
    },
    "a kernel that does not divide K": _layer(DW, kernel_shape=[4, 4]),
    "a kernel larger than K": _layer(DW, kernel_shape=[4096, 4096]),
    "a geometry on a linear layer": _layer(kernel_shape=[1, 1]),
    "a kind that does not exist": _layer(kind="lambda"),
    "a linear layer that is a conv": _layer(DW, kind="linear"),
    "an unknown key of a layer": _layer(__reduce__=["os", "system"]),
    **{
        f"the layer name {name[:40]!r}": _renamed(name)
        for name in ("", ".", "..", "a..b", ".a", "a.", "../x", "a/b", "a b", "a\n", "é", "a" * 513,
                     "a." * 400_000 + "a", "nothing")
    },
}  # fmt: skip
QUANTIZATIONS: dict[str, Make] = {
    **{
        f"format version {value!r}": _quantization(format_version=value)
        for value in (0, 1, 3, -1, 2.0, "1", True, None, 10**400, [1])
    },
    **{
        f"quant_method {value!r}": _quantization(quant_method=value)
        for value in ("MPQ", "bitsandbytes", None, 1, ["mpq"])
    },
    **{
        f"bits {value!r}": _quantization(bits=value)
        for value in ("w9a4", "w3a4\n", "", "w3a4;rm", None, 3, "w٣a4")
    },
    **{
        f"the family {value!r}": _quantization(family=value)
        for value in ("../digits", "os.path", "", "Digits", 5, "digits\n", "a" * 10 + "-")
    },
    **{
        f"the digest {value!r}": _quantization(source_sha256=value)
        for value in ("", "0" * 63, "0" * 64 + "\n", "A" * 64, "../" * 21 + "0", 5)
    },
    **{
        f"{key} of {value!r}": _quantization(**{key: value})
        for key in ("layers", "eight_bit", "kept", "recipe")
        for value in ([], "x", 5, None)
    },
    "no layers": _quantization(layers={}),
    **{
        f"{str(value)[:9]} parameters": _quantization(full_precision_parameters=value)
        for value in (0, -1, 1.5, "5", True, None, 10**400)
    },
    **{
        f"no {key}": _without(key)
        for key in ("layers", "bits", "method", "source", "quant_method", "format_version")
    },
    "an unknown key": _quantization(auto_map={"AutoModel": "modeling.Evil"}),
    "no quantization_config": with_json(CONFIG, lambda data: data.pop("quantization_config")),
    "a quantization_config that is a list": with_json(
        CONFIG, lambda data: data.update(quantization_config=[1])
    ),
}
_LAYER_TENSORS = [
    f"{FC}.{key}"
    for key in ("planes", "plane_rows", "steps", "scale", "row_order", "bias", "act_scale",
                "act_zero_point", "input_factor", "input_shift")
]  # fmt: skip
_SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a dimension more": lambda v: v[None],
    "no dimension": lambda v: v.reshape(-1)[0],
    "no elements": lambda v: v[:0],
    "an element less": lambda v: v[:-1],
    "twice the elements": lambda v: np.concatenate([v, v]),
    "another order": lambda v: v.reshape(-1, 1),
}

ATTACKS = [
    *(_tensor(name, with_tensors(edit)) for name, edit in INVARIANTS.items()),
    *(
        _tensor(f"{name} is missing", with_tensors(lambda t, name=name: t.pop(name)))
        for name in (*_LAYER_TENSORS[:8], TIMESTEPS, OUTPUT_BIAS)
    ),
    *(
        _tensor(
            f"{name} as {np.dtype(dtype)}",
            with_tensors(_replace(name, lambda v, dtype=dtype: v.astype(dtype))),
        )
        for name in (*_LAYER_TENSORS, TIMESTEPS, OUTPUT_BIAS)
        for dtype in _TYPES
        if not (dtype is np.int8 and name.endswith(("steps", "input_shift"))
                and not name.endswith("timesteps"))
    ),
    *(
        _tensor(f"{name} with {what}", with_tensors(_replace(name, edit)))
        for name in (*_LAYER_TENSORS, TIMESTEPS, OUTPUT_BIAS)
        for what, edit in _SHAPES.items()
    ),
    *(_tensor(f"header with {what}", with_bytes(WEIGHTS, e), "") for what, e in HEADERS.items()
      if what not in ("type I32", "type U32", "a shape of 2^62 beside 0")),
    *(_tensor(f"header with {what}", with_bytes(WEIGHTS, HEADERS[what]), "", EITHER)
      for what in ("type I32", "type U32", "a shape of 2^62 beside 0")),
    *(_tensor(what, with_tensors(edit), "", CORRECT) for what, edit in HARMLESS_HEADERS.items()),
    *(Attack(CONFIGS, name, make, read) for name, make in LAYER_CONFIGS.items()),
    *(Attack(CONFIGS, name, make, read, names="config") for name, make in QUANTIZATIONS.items()
      if name != "the family None"),
]  # fmt: skip
