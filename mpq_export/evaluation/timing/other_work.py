"""How much other programs took of the processors that something was measured on.

A load average cannot tell: it holds this program's own work, of the last minute.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE, _WAITING, _FIELDS = 3, 4, 8
"""Of ``cpu user nice system idle iowait irq softirq steal``; what follows is in these."""
_BUSY_SHARE = 0.1


@dataclass(frozen=True)
class _Reading:
    """Ticks of some processors since the system began, and this program's own, children's too."""

    all: float
    busy: float
    own: float

    @classmethod
    def now(cls, stat: Path, processors: Sequence[int]) -> _Reading:
        lines = (line.split() for line in stat.read_text(encoding="ascii").splitlines() if line)
        ticks = {name: [float(word) for word in words[:_FIELDS]]
                 for name, *words in lines if name.startswith("cpu")}  # fmt: skip
        wanted = {f"cpu{number}" for number in processors}
        # Some systems count all together.
        rows = [ticks[name] for name in wanted] if wanted <= ticks.keys() else [ticks["cpu"]]
        every = sum(map(sum, rows))
        idle = sum(row[_IDLE] + row[_WAITING] for row in rows)
        return cls(every, every - idle, sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK"))


class OtherWork:
    """Watches from when it is made on.

    Args:
        processors: that what is measured is pinned to; of a machine of 64, programs that fill
            these two take a thirty-second of all.
        stat: the system's count.
    """

    def __init__(self, processors: Sequence[int], stat: Path = _STAT) -> None:
        self._stat, self._processors = stat, tuple(processors)
        self._begin = _Reading.now(stat, self._processors)

    def share(self) -> float:
        """Of these processors' time until now, 0 to 1.

        All child processes must have ended: the time of those that have not is not known to be
        ours.
        """
        now, begin = _Reading.now(self._stat, self._processors), self._begin
        others = now.busy - begin.busy - (now.own - begin.own)
        return min(1.0, max(0.0, others) / max(now.all - begin.all, 1.0))


def is_busy(share: float) -> bool:
    """Whether figures that were taken beside so much other work need a remark."""
    return share > _BUSY_SHARE


def busy_note(share: float) -> str:
    """That remark, or nothing."""
    if not is_busy(share):
        return ""
    return (
        f"Other programs took {share:.0%} of the processors' time while times were taken: they are "
        "longer and spread wider than on a quiet machine. To take them again, remove times-* from "
        "the cache."
    )
