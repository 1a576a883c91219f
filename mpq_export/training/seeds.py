"""Random streams that are named by what they are for, not by what was drawn before."""

from __future__ import annotations

import hashlib


def derived_seed(purpose: str, *places: int) -> int:
    """The seed of one stream: 63 bits, which numpy and torch both take.

    ``places`` are the user's seed and where the stream is used, such as a group and its round; a
    run that is resumed, or cut into other processes, finds the same numbers there.
    """
    name = " ".join([purpose, *map(str, places)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
