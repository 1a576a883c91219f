"""Signals as wishes."""

import signal
import threading

import pytest

from mpq_export.errors import Interrupted
from mpq_export.training.interruption import leave_if, stop_wish


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_acts(number):
    acted = []
    before = signal.signal(number, lambda *_: acted.append(number))
    try:
        with stop_wish() as wished:
            assert not wished()
            signal.raise_signal(number)
            assert wished()
            assert acted == []
            signal.raise_signal(number)
            assert acted == [number]
        signal.raise_signal(number)
        assert acted == [number] * 2
    finally:
        signal.signal(number, before)


def test_a_wish_is_an_error_that_says_how_to_go_on():
    leave_if(lambda: False, "digits were drawn")
    with pytest.raises(Interrupted, match=r"while digits were drawn\. Go on with --resume"):
        leave_if(lambda: True, "digits were drawn")


def test_outside_the_main_thread_no_wish_comes():
    seen = []

    def work():
        with stop_wish() as wished:
            seen.append(wished())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
