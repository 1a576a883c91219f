"""What a child process says of its end."""

from mpq_export.errors import UserError
from mpq_export.evaluation.timing.failures import one_line


def test_our_own_errors_keep_why_and_how_to_fix_it():
    error = UserError("It fails", where="x" * 150, why="Because " + "y" * 60, fix="Do this")
    said = one_line(error)
    assert said.startswith("It fails (xxx")
    assert said.endswith("yyy. Do this")
    assert "\n" not in said


def test_a_librarys_message_is_its_first_line():
    assert one_line(ValueError("first\nsecond")) == "ValueError: first"
