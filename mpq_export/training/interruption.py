"""Ctrl-C and SIGTERM as a wish to stop after the current update."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_wish() -> Iterator[Callable[[], bool]]:
    """While the block runs, the first signal is a wish that the yielded function tells; a second
    one acts as it would outside.

    Outside the main thread, where Python delivers no signals, the wish never comes.
    """
    wished = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wished.is_set
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        wished.set()
        _restore(before)

    try:
        for number in _SIGNALS:
            signal.signal(number, on_signal)
        yield wished.is_set
    finally:
        _restore(before)


def leave_if(wished: Callable[[], bool], doing: str) -> None:
    """Raise Interrupted where somebody has wished to stop while something was being done, such as
    "scales were learned"."""
    if wished():
        raise Interrupted(f"Stopped while {doing}", fix="Go on with --resume")


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
