"""Habits all commands share: progress on stderr, JSON on stdout, exit codes, errors as prose."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..errors import Interrupted, UserError, missing_package, printable

CHECK_FAILED, USER_ERROR, INTERRUPTED, TERMINATED = 1, 2, 130, 143
LARGEST_SEED = 2**63 - 1
_LOG_SECONDS = 30.0

_EXTRA_OF_PACKAGE = {
    "torch": "cpu",
    "diffusers": "cpu",
    "accelerate": "cpu",
    "matplotlib": "cpu",
    "huggingface_hub": "cpu",
    "onnxscript": "cpu",
    "torchmetrics": "cpu",
    "transformers": "text",
    "sklearn": "cpu",
    "skimage": "cpu",
    "polygraphy": "check",
    "onnxruntime": "runtime",
    "jinja2": "runtime",
    "PIL": "runtime",
}

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)


def run(command: Callable[..., None], epilog: str) -> None:
    """Run a command function as the program: 0 good, 1 failed check, 2 user error, 130 Ctrl-C."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(epilog=epilog)(command)
    quiet_libraries()
    # Like Ctrl-C: blocks end, and what was half-written is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        app()
    except Interrupted as error:
        err.print(error.paragraph(), markup=False, soft_wrap=True)
        sys.exit(INTERRUPTED)
    except UserError as error:
        _fail(error)
    except MemoryError:
        _fail(UserError("There is not enough memory", fix="Close other programs"))
    except OSError as error:
        # What stdout could not take would be tried again, and fail again, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where, why = error.filename or "", error.strerror or str(error)
        _fail(UserError("Reading or writing failed", where=where, why=why))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA_OF_PACKAGE:
            raise
        _fail(missing_package(package, _EXTRA_OF_PACKAGE[package], "This command"))


def _fail(error: UserError) -> NoReturn:
    err.print(f"Error: {error.paragraph()}", style="red", markup=False, soft_wrap=True)
    sys.exit(USER_ERROR)


def say(text: str) -> None:
    """A line of the result on stdout, never broken by the terminal's width."""
    out.print(printable(text), markup=False, soft_wrap=True)


def say_lines(text: str) -> None:
    """Several lines of the result on stdout."""
    for line in text.splitlines():
        say(line)


def remark(text: str) -> None:
    """A line on stderr that is no part of the result, and no error."""
    err.print(printable(text), markup=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """The one JSON object of a ``--json`` run."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def examples(*lines: str) -> str:
    """An epilog for ``--help``."""
    return "**Examples**\n\n" + "\n\n".join(f"`{line}`" for line in lines)


def _finite(data: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


class TaskProgress:
    """Progress bars with ETA on stderr, one after another; a context manager.

    Where stderr is no terminal, as in CI's logs, the current bar is printed every half minute, and
    all of them at the end.
    """

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=err,
        )
        self._task: TaskID | None = None
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, task: str, total: int) -> None:
        """A new task of ``total`` parts begins."""
        self._task = self._progress.add_task(task, total=total, note="")

    def advance(self, parts: int = 1) -> None:
        """That many more parts of the current task are done."""
        if self._task is not None:
            self._progress.advance(self._task, parts)
            self._log()

    def note(self, text: str) -> None:
        """How the current task is going."""
        if self._task is not None:
            self._progress.update(self._task, note=text)

    def _log(self) -> None:
        now = time.monotonic()
        if err.is_terminal or now - self._printed < _LOG_SECONDS:
            return
        self._printed = now
        current = [task for task in self._progress.tasks if task.id == self._task]
        err.print(self._progress.make_tasks_table(current))


def quiet_libraries() -> None:
    """Commands speak for themselves; libraries' warnings are not the user's to mend."""
    warnings.filterwarnings("ignore")
    # Read when these are imported; they set their own levels then.
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("diffusers", "transformers", "torch", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
