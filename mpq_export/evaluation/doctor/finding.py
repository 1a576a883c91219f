"""One line of the doctor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is fine, and what to do about it.

    ``about_given`` marks verdicts on the bundle or checkpoint that was given: if one is not ok, the
    command fails.
    """

    subject: str
    ok: bool
    detail: str
    advice: str = ""
    about_given: bool = False
