"""What a library raised, in a line that fits a table's remark."""

from __future__ import annotations

_MOST_CHARACTERS = 200


def one_line(error: BaseException) -> str:
    """Type and first line of the message."""
    message = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {message}"[:_MOST_CHARACTERS].rstrip(" .:")
