"""What this machine can run, and what to do about what it cannot.

Nothing heavy is imported and nothing that was given is executed: of a checkpoint only headers are
read. Programs are asked for their versions, with fixed arguments and a time limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .capacity import given_findings
from .compilers import compiler_findings
from .finding import Finding
from .gpu import gpu_findings, has_card
from .gpu_kernels import gpu_kernels_finding
from .host import Host
from .memory import memory_finding
from .native_library import native_library_finding
from .processor import processor_finding
from .python import python_findings
from .tensorrt import tensorrt_findings

__all__ = ["Finding", "Host", "examine"]


def examine(given: Path | None, host: Host | None = None) -> Sequence[Finding]:
    """Look at the interpreter, packages, processor, native library, GPU and its kernels, TensorRT,
    compilers, memory and disk, and at a bundle or checkpoint if one is given."""
    host = host or Host()
    findings = [
        *python_findings(),
        processor_finding(host),
        native_library_finding(),
        *gpu_findings(host),
        gpu_kernels_finding(has_card(host)),
        *tensorrt_findings(host),
        *compiler_findings(host),
        memory_finding(host),
    ]
    return findings if given is None else [*findings, *given_findings(given, host)]
