"""``docs/results/tensorrt_plugin.md`` from the figures beside it."""

from __future__ import annotations

from typing import Any

_WHAT_EACH_PROVES = (
    ("headers of each version", "source compiles without a warning, the example too", ""),
    (
        "the emulated GPU, through `IPluginV3`",
        "all golden cases bit for bit, channels last and residuals; fields, types, shapes, "
        "workspace; that an engine's fields make the same plugin; what is refused, by node",
        "that nvcc's kernels equal the emulated ones (`make gpu-check`)",
    ),
    (
        "registries of TensorRT's own libraries",
        "the library is loaded, its creators found and called; plugins cloned, written to fields "
        "and made of them again; the library given back",
        "enqueue; deserialising an engine, which needs a driver",
    ),
    (
        "the same on emulated aarch64",
        "the cross-compiled library and its calling conventions",
        "that a board's driver takes its CUDA runtime",
    ),
    (
        "TensorRT-RTX's parser and builder",
        "whole models are read and built, every layer's words once in the plan; a refusal reaches "
        "TensorRT's logger with the node's name",
        "running the plan; which formats the builder prefers when it can time them",
    ),
)


def markdown(result: dict[str, Any]) -> str:
    """The tables, and how they were made."""
    parts = [
        "# The C++ plugin without a GPU\n",
        f"`{result['command']}`, with {', '.join(result['compilers'])}; device code for "
        f"{result['architectures'].replace(';', ' and ')}.\n",
        "## Headers\n",
        _table(("TensorRT", "compiles", "tests through its interface, emulated GPU"),
               [(one["headers"], "yes", one["exact"]) for one in result["headers"]]),
        "## Registries\n",
        _table(("library", "version", "processor", "compiled with headers", "library, MB",
                "checks that held"), map(_runtime, result["runtimes"])),
        "Each shows `" + "` and `".join(sorted(_exports(result))) + "` and nothing else.\n",
        "## Whole models in TensorRT-RTX\n",
        _table(("w3a4", "packed nodes", "words, MB", "plan, MB", "words once in it"),
               map(_model, result["models"])),
        "## What this proves\n",
        _table(("", "proved", "only a GPU can prove"), _WHAT_EACH_PROVES),
    ]  # fmt: skip
    return "\n".join(parts)


def _runtime(one: dict[str, Any]) -> tuple[object, ...]:
    checks = one["checks"]
    return (
        f"`{one['runtime']}`",
        one["version"],
        one["processor"],
        one["headers"],
        f"{one['library_bytes'] / 1e6:.1f}",
        f"{sum(checks.values())} of {len(checks)}",
    )


def _exports(result: dict[str, Any]) -> set[str]:
    return {name for one in result["runtimes"] for name in one["exports"]}


def _model(one: dict[str, Any]) -> tuple[object, ...]:
    return (
        one["model"],
        one["packed_nodes"],
        f"{one['words_bytes'] / 1e6:.2f}",
        f"{one['plan_bytes'] / 1e6:.1f}",
        "yes" if one["words_once"] else "NO",
    )


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
