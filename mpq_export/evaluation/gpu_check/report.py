"""``gpu.json`` and ``gpu.md``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import report_files
from ..report_files import machine_line

Result = Mapping[str, Any]
NO_TIME = "no time was left"
"""Why something was skipped."""
PACKED_ENGINE, PLAIN_INT8_ENGINE, FLOAT16_ENGINE = "packed", "plain INT8", "float16"
"""Of one model."""
_OUR_STEPS = ("packed, CUDA graph", "packed, operator by operator")


def write_report(out: Path, result: Result) -> None:
    """Write both files."""
    report_files.write_report(out, "gpu", result, markdown(result))


def markdown(result: Result) -> str:
    """The tables of the parts that were asked for."""
    lines = ["# The GPU kernels on this machine", "", machine_line(result["machine"]), ""]
    if result["emulated"]:
        lines += ["**Emulated: times say nothing, exactness does.**", ""]
    for name, write in _PARTS.items():
        if name in result:
            lines += ["", f"## {name.capitalize()}", ""]
            part = result[name]
            lines += [f"Not run: {part['skipped']}."] if "skipped" in part else write(part)
    return "\n".join([*lines, ""])


def passed(result: Result) -> bool:
    """Whether nothing that ran was inexact or failed its tests, and none of ours failed to run.

    A library's product that fails is named and no fault of the kernels; so is a compiler's.
    """
    exactness, tests, models = (result.get(name, {}) for name in ("exactness", "tests", "models"))
    others = [exactness.get("driver", {}), *exactness.get("sanitizers", {}).values()]
    layers = all(
        "failure" not in row and row.get("layers_exact", row.get("layers")) == row.get("layers")
        for row in models.get("rows", [])
    )
    ours = [row["packed"] for row in _measured(result.get("kernels", {}))]
    for row in models.get("rows", []):
        ours += [ms for name, ms in row.get("ms", {}).items() if name in _OUR_STEPS]
    failures = [one for one in result.values() if isinstance(one, dict) and "failure" in one]
    return (
        exactness.get("exact", True)
        and all(other.get("exact", True) for other in others)
        and tests.get("passed", True)
        and layers
        and _engines_passed(result.get("engines", {}))
        and not any("failure" in one for one in ours)
        and not failures
    )


def _engines_passed(part: Result) -> bool:
    """Whether ours were built and ran, and none of the quantised ones is far from torch's."""
    for row in part.get("rows", []):
        engines = row.get("engines", {})
        ours = [engines.get(name, {}) for name in (PACKED_ENGINE, PLAIN_INT8_ENGINE)]
        far = any(error > part["limit"] for one in ours for error in one.get("relative_errors", []))
        if far or "failure" in row or any("failure" in one for one in ours):
            return False
    return True


def _exactness(part: Result) -> list[str]:
    if "failure" in part:
        return [f"**Failed**: {part['failure']}"]
    lines = [_cases(part), "", f"By NVRTC and CUDA's driver. {_cases(part['driver'])}"]
    for name, sanitizer in part["sanitizers"].items():
        lines += ["", f"compute-sanitizer {name}: {_sanitized(sanitizer)}."]
    return lines


def _cases(tried: Result) -> str:
    if "skipped" in tried:
        return f"Not run: {tried['skipped']}."
    if "failure" in tried:
        return f"**Failed**: {tried['failure']}."
    counts = ", ".join(f"{kind}: {count}" for kind, count in tried["cases"].items())
    verdict = "all equal the reference bit for bit"
    if tried["differing"]:
        verdict = f"**some differ**: {', '.join(tried['differing'])}"
    return f"Cases ({counts}): {verdict}."


def _sanitized(sanitizer: Result) -> str:
    if "skipped" in sanitizer:
        return f"not run, {sanitizer['skipped']}"
    found = [f"{sanitizer['errors']} errors"]
    if "failure" in sanitizer:
        found.append(f"**failed**: {sanitizer['failure']}")
    if sanitizer.get("differing"):
        found.append(f"differing: {', '.join(sanitizer['differing'])}")
    return "; ".join(found)


def _tests(part: Result) -> list[str]:
    if "failure" in part:
        return [f"**Failed**: {part['failure']}"]
    return [f"{'Passed' if part['passed'] else '**Failed**'}: {part['summary']}"]


def _kernels(part: Result) -> list[str]:
    if "failure" in part:
        return [f"**Failed**: {part['failure']}"]
    rates = part["rates"]
    lines = [
        f"Measured: {_rates(rates)}.",
        "",
        "| product | packed ms (p10 to p90) | float16 ms | int8 ms | float16 / packed | "
        "int8 / packed | of int8 rate | of bandwidth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    measured = _measured(part)
    for row in measured:
        lines.append(
            f"| {row['name']} | {_spread(row['packed'])} | {_median(row['float16'])} "
            f"| {_median(row['int8'])} | {_times(row.get('float16_over_packed'))} "
            f"| {_times(row.get('int8_over_packed'))} | {_share(row.get('int8_rate_share'))} "
            f"| {_share(row.get('bandwidth_share'))} |"
        )
    warm = [row["name"] for row in measured if row["packed_weights_fit_cache"]]
    lines += [
        "",
        "w3a8; ours reads and writes float16 and quantises its input. Many sets of weights of each",
        "product are read in turns, and each run is one CUDA graph. int8 is",
        "the library's bare product of the same sizes (at least 32 rows): no quantising, no",
        "gathering of a convolution's columns, int32 out. Convolutions are of two images.",
        *(
            [f"All sets of packed weights together fit the last cache: {'; '.join(warm)}."]
            * bool(warm)
        ),
        *(f"- {row['name']}: {row['skipped']}." for row in part["rows"] if "skipped" in row),
        *(f"- {name}: {why}." for name, why in rates["failures"].items()),
        *_failures(
            (row["name"], name, row[name])
            for row in measured
            for name in ("packed", "float16", "int8")
        ),
    ]
    return lines


def _models(part: Result) -> list[str]:
    if "failure" in part:
        return [f"**Failed**: {part['failure']}"]
    lines = [
        f"{part['bits']}, random weights. A step, float32 in and out, float16 within.",
        "",
        "| network | batch | subject | ms (p10 to p90) | over packed, CUDA graph | "
        "over packed, compiled, CUDA graph |",
        "|---|---|---|---|---|---|",
    ]
    skipped, exact = [], []
    for row in part["rows"]:
        if "skipped" in row or "failure" in row:
            skipped.append(f"{row['name']}: {row.get('skipped') or row['failure']}.")
            continue
        if "layers_exact" in row:
            exact.append(
                f"{row['name']}: {row['layers_exact']} of {row['layers']} layers equal the "
                "reference, each for the input that it had."
            )
        for name, ms in row["ms"].items():
            ratios = " | ".join(
                _times(row["over"].get(ours, {}).get(name))
                for ours in ("packed, CUDA graph", "packed, compiled, CUDA graph")
            )
            lines.append(f"| {row['name']} | {row['batch']} | {name} | {_spread(ms)} | {ratios} |")
    failures = _failures(
        (row["name"], name, ms) for row in part["rows"] for name, ms in row.get("ms", {}).items()
    )
    return [*lines, "", *exact, *skipped, *failures]


def _engines(part: Result) -> list[str]:
    if "failure" in part:
        return [f"**Failed**: {part['failure']}"]
    lines = [
        f"{part['tensorrt']}, {part['bits']}, random weights, float16 between the nodes. A step "
        "from numpy to numpy; errors are relative to torch's prediction, of the image with the "
        f"largest one, and at most {part['limit']} for the quantised ones.",
        "",
        "| network | batch | engine | ms (p10 to p90) | over packed | plan MB | largest error |",
        "|---|---|---|---|---|---|---|",
    ]
    failures = []
    for row in part["rows"]:
        if "skipped" in row or "failure" in row:
            failures.append(f"- {row['name']}: {row.get('skipped') or row['failure']}.")
        for name, one in row.get("engines", {}).items():
            if "ms" not in one:
                why = one.get("skipped") or one["failure"]
                failures.append(f"- {row['name']}, {name}: {why}.")
                continue
            lines.append(
                f"| {row['name']} | {row['batch']} | {name} | {_spread(one['ms'])} "
                f"| {_times(row['over'].get(name))} | {one['plan_mb']:.2f} "
                f"| {max(one['relative_errors']):.3g} |"
            )
    return [*lines, "", *failures]


def _measured(part: Result) -> list[Result]:
    return [row for row in part.get("rows", []) if "skipped" not in row]


_PARTS = {
    "exactness": _exactness,
    "tests": _tests,
    "kernels": _kernels,
    "models": _models,
    "engines": _engines,
}


def _rates(rates: Result) -> str:
    int8, bytes_ = rates["int8_tops"], rates["terabytes"]
    return ", ".join(
        (
            "no int8 rate" if int8 is None else f"{int8:.0f} int8 TOPS",
            "no bandwidth" if bytes_ is None else f"{1000 * bytes_:.0f} GB/s",
        )
    )


def _median(spread: Result) -> str:
    return f"{spread['median']:.4g}" if "median" in spread else "none"


def _spread(spread: Result) -> str:
    if "median" not in spread:
        return "none"
    return f"{spread['median']:.4g} ({spread['p10']:.4g} to {spread['p90']:.4g})"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _failures(entries: Iterable[tuple[str, str, Result]]) -> list[str]:
    return [
        f"- {place}, {name}: {entry['failure']}."
        for place, name, entry in entries
        if "failure" in entry
    ]
