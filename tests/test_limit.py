"""The limit of time for what a learner wrote."""

import signal
import threading
import time

import pytest

from mbrl_helpers.exercises.limit import Late, at_most


def busy(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_what_ends_in_time_is_left_alone():
    with at_most(60):
        busy(0.001)


def test_what_does_not_end_is_late():
    with pytest.raises(Late), at_most(0.02):
        busy(60)


def test_an_interrupt_of_its_own_stays_one():
    with pytest.raises(KeyboardInterrupt), at_most(60):
        raise KeyboardInterrupt


def test_an_error_of_its_own_stays_one():
    with pytest.raises(ZeroDivisionError), at_most(60):
        _ = 1 / 0


def test_an_answer_that_ends_as_the_bell_rings_interrupts_nothing_else():
    """Whether late or not: nothing is heard outside."""
    for _ in range(200):
        try:
            with at_most(0.002):
                busy(0.002)
        except Late:
            pass
        busy(0.0005)


def test_other_threads_and_handlers_are_left_as_they_were():
    before = signal.getsignal(signal.SIGINT)
    done = []

    def elsewhere():
        with at_most(0.001):
            busy(0.005)
        done.append(True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done
    assert signal.getsignal(signal.SIGINT) is before
