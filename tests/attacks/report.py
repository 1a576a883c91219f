"""Runs the whole catalogue and the fuzzer, and writes the table of hostile inputs.

make attacks
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fixtures
from fuzz.fuzzer import fuzz

from attacks.arena import MEMORY, SECONDS, run_attacks
from attacks.attack import Material, Outcome, Result
from attacks.catalogue import AREAS, CATALOGUE
from mpq_export.bundle import write_bundle
from mpq_export.evaluation.machine import describe_machine
from mpq_export.files import staged_file, write_json

_LONGEST_MESSAGE = 300


def make_material(folder: Path) -> Material:
    """What attacks spoil copies of."""
    made = fixtures.handmade_bundle(folder / "handmade")
    made.path.mkdir()
    write_bundle(made.path, made)
    pipeline = fixtures.save_pipeline(folder / "pipeline")
    return Material(
        made.path,
        pipeline,
        fixtures.exported_bundle(pipeline, folder / "lowered"),
        fixtures.cached_bundle(pipeline, folder / "cached"),
    )


def _row(area: str, results: list[Result]) -> dict[str, Any]:
    counts = Counter(result.outcome for result in results)
    return {
        "area": area,
        "tried": len(results),
        "refused clearly": counts[Outcome.REFUSED],
        "correct result": counts[Outcome.CORRECT],
        "crashed": counts[Outcome.CRASHED],
    }


def _shortened(message: str) -> str:
    too_long = len(message) > _LONGEST_MESSAGE
    return message[:_LONGEST_MESSAGE] + " ..." if too_long else message


def _markdown(report: dict[str, Any]) -> str:
    rows, fuzzed = report["areas"], report["fuzz"]
    columns = list(rows[0])
    lines = [
        "# Hostile input",
        "",
        "Command: `make attacks`. Each attack goes through the program's own entry point, in a "
        f"process that may grow by {MEMORY >> 20} MiB and take {SECONDS} s, and in which no "
        "program may be started and no code of the input may run. `attacks.json` lists every "
        "attack with the message it got.",
        "",
        f"Machine: {', '.join(f'{key} {value}' for key, value in report['machine'].items())}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows),
        "",
        f"Fuzzing (`make fuzz SECONDS={fuzzed['seconds']:.0f}`, seed {fuzzed['seed']}): "
        + ", ".join(f"{count} {what}" for what, count in fuzzed["counts"].items())
        + "; 0 crashed. Accepted means: packs to the identical bytes again, and runs.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run everything, write the table, and exit with 1 if an attack succeeded."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--fuzz-seconds", type=float, default=60)
    options = parser.parse_args()
    results = []
    with TemporaryDirectory() as folder:
        for result in run_attacks(list(CATALOGUE.values()), make_material(Path(folder))):
            results.append(result)
            if not result.passed:
                print(f"{result.attack.area}: {result.attack.name}: {result.message}")
    end = time.monotonic() + options.fuzz_seconds
    counts = fuzz(0, lambda _: time.monotonic() < end)
    areas = [_row(area, [r for r in results if r.attack.area == area]) for area in AREAS]
    report = {
        "machine": describe_machine(),
        "areas": [*areas, _row("all", results)],
        "fuzz": {
            "seed": 0,
            "seconds": options.fuzz_seconds,
            "counts": dict(sorted(counts.items())),
        },
        "attacks": [
            {
                "area": r.attack.area,
                "attack": r.attack.name,
                "outcome": r.outcome.value,
                "message": _shortened(r.message),
            }
            for r in results
        ],
    }
    with staged_file(options.out / "attacks.json") as stage:
        write_json(stage, report)
    text = _markdown(report)
    with staged_file(options.out / "attacks.md") as stage:
        stage.write_text(text, encoding="utf-8")
    print(text)
    sys.exit(0 if all(result.passed for result in results) else 1)


if __name__ == "__main__":
    main()
