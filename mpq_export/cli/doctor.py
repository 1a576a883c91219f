"""``mpq-doctor``: what can run here, and if not, why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import console

EPILOG = console.examples(
    "mpq-doctor", "mpq-doctor out/digits-w3a4 --json", "mpq-doctor stable-diffusion/unet"
)


def doctor(
    path: Annotated[
        Path | None,
        typer.Argument(help="A bundle or checkpoint to hold against this machine too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say what this machine can run, and what to do about what it cannot.

    Exit code 1 if a bundle was given and does not verify, or if what was given does not fit into
    memory or on the disk.
    """
    from ..evaluation.doctor import examine

    findings = examine(path)
    if as_json:
        console.print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            mark = "ok  " if finding.ok else "no  "
            advice = f" -> {finding.advice}" if finding.advice else ""
            console.say(f"{mark} {finding.subject}: {finding.detail}{advice}")
    if any(finding.about_given and not finding.ok for finding in findings):
        raise typer.Exit(console.CHECK_FAILED)


def main() -> None:
    """Entry point."""
    console.run(doctor, EPILOG)


if __name__ == "__main__":
    main()
