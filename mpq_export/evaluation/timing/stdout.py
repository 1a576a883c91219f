"""A process whose parent reads its stdout: what libraries print must not land among its lines."""

from __future__ import annotations

import os
import sys
from typing import IO


def own_stdout() -> IO[str]:
    """The pipe to the parent; what libraries print goes to stderr from now on."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return pipe
