"""A given bundle or checkpoint against this machine's memory and disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...bundle import CONFIG, WEIGHTS, read_bundle
from ...errors import BundleError, CheckpointError, UserError
from ...files import MAX_JSON_BYTES, parse_json
from ...lowering.names import Target
from ...pipeline_folder import DENOISERS, PIPELINE, verified_index
from ...runtimes.names import Runtime
from ...runtimes.selection import select
from ...tensor_headers import elements, tensor_shapes
from ...weight_names import DENOISER_STEM, files_of, heads
from .finding import Finding
from .host import Host
from .memory import free_disk, free_memory, gigabytes

_PROGRAM_BYTES, _RUNTIME_BYTES = 550_000_000, 110_000_000
"""Python with torch and diffusers; Python with ONNX Runtime. Measured, as what opening takes."""
_QUANTISING = 1.5
"""Peak memory of quantising over the float32 checkpoint: statistics of calibration and activations
come on top of it."""


def given_findings(path: Path, host: Host) -> Sequence[Finding]:
    """What a bundle or checkpoint needs here, and whether a bundle verifies."""
    try:
        if _is_bundle(path):
            return _bundle(path, host)
        return _checkpoint(path, host)
    except UserError as error:
        return [Finding("given", False, error.paragraph(), about_given=True)]
    except OSError as error:
        return [Finding("given", False, f"{path}: {error.strerror}", about_given=True)]


def _is_bundle(path: Path) -> bool:
    config = path / CONFIG
    return path.is_dir() and config.is_file() and "quantization_config" in _json(config)


def _json(path: Path) -> dict:
    try:
        with path.open("rb") as stream:
            return parse_json(stream.read(MAX_JSON_BYTES), path, CheckpointError)
    except OSError as error:
        raise CheckpointError(
            "The file cannot be read", where=path, why=str(error.strerror)
        ) from error


# --- bundles ----------------------------------------------------------------------------------


def _bundle(path: Path, host: Host) -> list[Finding]:
    if not (path / WEIGHTS).is_file():
        return _verified(path)
    stored = (path / WEIGHTS).stat().st_size
    integers, largest, floating = _expanded(path)
    free = free_memory(host)
    native = select(Runtime.ORT).runs is Runtime.ORT
    # The bundle, the lowered file and its parsed form; if rewritten, int8 weights and the session's
    # own copy of them.
    opening = _RUNTIME_BYTES + 3 * stored + (0 if native else 2 * integers) + floating
    torch = _PROGRAM_BYTES + stored + integers + floating + 8 * largest
    findings = [
        _fits(
            "memory in ONNX Runtime",
            opening,
            free,
            "weights stay packed"
            if native
            else f"{gigabytes(integers)} as int8 weights once opened",
        ),
        _fits("memory in torch", torch, free, "sums are in float64, layer by layer"),
    ]
    if 2 * stored > free:
        findings.append(
            Finding(
                "bundle",
                False,
                f"not verified: reading its {gigabytes(stored)} needs more memory than is free",
                "Close other programs, or use a machine with more memory",
                about_given=True,
            )
        )
        return findings
    return [*_verified(path), *findings]


def _expanded(path: Path) -> tuple[int, int, int]:
    """Int8 weights of all layers, of the largest layer, and bytes of all other parameters."""
    shapes = tensor_shapes(path / WEIGHTS)
    try:
        layers = _json(path / CONFIG)["quantization_config"]["layers"]
        sizes = [
            int(config["K"]) * shapes[f"{name}.row_order"][0] for name, config in layers.items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(
            "The config and the weights do not fit together", where=path, why=repr(error)
        ) from error
    own = tuple(f"{name}." for name in layers)
    others = {name: shape for name, shape in shapes.items() if not name.startswith(own)}
    return sum(sizes), max(sizes, default=0), 4 * elements(others)


def _verified(path: Path) -> list[Finding]:
    try:
        bundle = read_bundle(path)
    except UserError as error:
        return [Finding("bundle", False, error.paragraph(), about_given=True)]
    config = bundle.quantization
    findings = [
        Finding(
            "bundle",
            True,
            f"verified: {config.bits} by {config.method}, {len(bundle.layers)} quantised layers, "
            f"family {config.family or 'none'}",
            about_given=True,
        )
    ]
    for target in Target:
        there = (path / "onnx" / target.value).is_dir()
        advice = "" if there else f"mpq-export --ckpt {path} --target {target.value}"
        findings.append(
            Finding(f"target {target.value}", there, "lowered" if there else "not lowered", advice)
        )
    if (path / PIPELINE).exists():
        findings.append(_pipeline(path))
    return findings


def _pipeline(path: Path) -> Finding:
    """Whether the other components of a whole pipeline are as they were written."""
    try:
        index = verified_index(path)
    except UserError as error:
        return Finding("pipeline", False, error.paragraph(), about_given=True)
    files = [file for file in (path / PIPELINE).rglob("*") if file.is_file()]
    stored = sum(file.stat().st_size for file in files)
    detail = f"verified: {index.get('_class_name')}, {len(files)} files, {gigabytes(stored)}"
    return Finding("pipeline", True, detail, about_given=True)


# --- checkpoints ------------------------------------------------------------------------------


def _checkpoint(path: Path, host: Host) -> list[Finding]:
    files = _weight_files(path)
    stored = sum(file.stat().st_size for file in files)
    if all(file.suffix == ".safetensors" for file in files):
        full = 4 * sum(elements(tensor_shapes(file)) for file in files)
        how = f"{full // 4:,} values"
    else:
        full, how = stored, "a pickle is not opened here, so float32 is assumed"
    detail = f"{len(files)} file(s), {gigabytes(stored)}; {gigabytes(full)} as float32 ({how})"
    # At 8 bits, the bundle and one lowered model.
    disk = full // 2
    return [
        Finding(
            "checkpoint",
            True,
            detail,
            f"mpq-export --ckpt {path} --dry-run forecasts bytes, time and memory layer by layer",
            about_given=True,
        ),
        _fits(
            "memory to quantise",
            _PROGRAM_BYTES + int(_QUANTISING * full),
            free_memory(host),
            "the checkpoint as float32, statistics of calibration, activations",
        ),
        _fits(
            "disk for the bundle",
            disk,
            free_disk(Path.cwd()),
            "at w8 with one lowered model; half of that at w4",
        ),
    ]


def _weight_files(path: Path) -> list[Path]:
    """Files of the denoiser's weights: the path itself, or what a diffusers folder loads."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError("There is no such bundle or checkpoint", where=path)
    folder = path
    if (path / "model_index.json").is_file():
        folder = next((path / name for name in DENOISERS if (path / name).is_dir()), path)
    names = sorted(os.listdir(folder))
    preferred = heads(names, DENOISER_STEM)[:1]
    found = [
        folder / name
        for head in preferred
        for name in files_of(head, names)
        if not name.endswith(".json")
    ]
    if not found:
        raise CheckpointError(
            "The folder is no bundle and no diffusers model",
            where=folder,
            why=f"It has neither {WEIGHTS} nor diffusion_pytorch_model.safetensors",
        )
    return found


def _fits(subject: str, needed: int, free: int, why: str) -> Finding:
    """Whether ``needed`` bytes are free."""
    return Finding(
        subject,
        needed <= free,
        f"about {gigabytes(needed)} needed, {gigabytes(free)} free: {why}",
        "" if needed <= free else "Free some, or use a machine with more",
        about_given=True,
    )
