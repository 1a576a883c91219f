"""What a library raised, in a line that fits a table's remark."""

from __future__ import annotations

from ...errors import UserError

_MOST_CHARACTERS, _MOST_OF_OURS = 200, 600


def one_line(error: BaseException) -> str:
    """Type and first line of the message; of our own errors all that they say."""
    if isinstance(error, UserError):
        return error.paragraph()[:_MOST_OF_OURS].rstrip(" .:")
    message = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {message}"[:_MOST_CHARACTERS].rstrip(" .:")
