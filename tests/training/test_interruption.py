"""Signals as wishes."""

import signal
import threading

import pytest

from mpq_export.training.interruption import stop_wish


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


def test_outside_the_main_thread_no_wish_comes():
    seen = []

    def work():
        with stop_wish() as wished:
            seen.append(wished())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
