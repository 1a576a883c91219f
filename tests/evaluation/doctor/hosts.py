"""Machines made of a folder: system files, and programs that are small scripts."""

from pathlib import Path

from mpq_export.evaluation.doctor.host import Host


def fake_host(folder: Path, files: dict[str, str] | None = None, programs=None) -> Host:
    """A host with these system files and programs (name to shell script) and nothing else."""
    for name, text in (files or {}).items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    tools = folder / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    for name, script in (programs or {}).items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    return Host(folder / "root", str(tools))
