"""What the launcher of this process asked for, where training cannot or will not do it.

accelerate's launcher and torch's speak to their processes through the environment.
"""

from __future__ import annotations

import os

from ..errors import UserError

_PRECISION, _MEETING_POINT = "ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"
_USABLE_PRECISIONS = ("no", "bf16")
_NUMBERS_OF_PROCESSES = (
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
)
"""By torch's launcher, which accelerate's uses for GPUs, and those of MPI."""


class LaunchError(UserError):
    """A launch with options that training cannot follow."""


def require_usable_precision() -> None:
    """Raise LaunchError on a mixed precision in which small gradients would be lost.

    float16 needs its losses scaled, which is not done here; bfloat16 has float32's range.
    """
    precision = os.environ.get(_PRECISION, "no")
    if precision.lower() not in _USABLE_PRECISIONS:
        raise LaunchError(
            f"Training in mixed precision '{precision}' is not possible",
            where="--mixed_precision",
            why="Losses are not scaled, so that small gradients would become 0",
            fix="Take bf16, or leave it out",
        )


def remark_on_processes(works: str = "trains") -> str | None:
    """What to tell the user where several processes were asked for and one ``works``, or None.

    accelerate's launcher starts a single process on the CPU of one machine, whatever its
    ``--num_processes``. It names the place where several would meet then, but no number of them.
    """
    alone = not any(name in os.environ for name in _NUMBERS_OF_PROCESSES)
    if alone and _PRECISION in os.environ and _MEETING_POINT in os.environ:
        return (
            f"Only this one process {works}: on the CPU of one machine accelerate launch starts "
            "one, whatever its --num_processes. torchrun with ACCELERATE_USE_CPU=true starts "
            "several."
        )
    return None
