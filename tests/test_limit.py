"""The limit of time for what a learner wrote."""

import contextlib
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
    assert at_most(60, lambda: busy(0.001) or 3) == 3


def test_what_does_not_end_is_late():
    with pytest.raises(Late):
        at_most(0.02, lambda: busy(60))


def test_an_answer_that_catches_every_exception_is_late_as_well():
    def stubborn():
        try:
            busy(60)
        except Exception:
            return 1

    with pytest.raises(Late):
        at_most(0.02, stubborn)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_it_raises_stays_what_it_is(error):
    def raises():
        raise error

    with pytest.raises(error):
        at_most(60, raises)


def test_a_learners_own_interrupt_stays_one():
    with pytest.raises(KeyboardInterrupt):
        at_most(60, lambda: signal.raise_signal(signal.SIGINT))


def test_an_answer_that_ends_as_the_bell_rings_interrupts_nothing_else():
    """Whether late or not: nothing is heard outside."""
    before = signal.getsignal(signal.SIGINT)
    for _ in range(200):
        with contextlib.suppress(Late):
            at_most(0.002, lambda: busy(0.002))
        busy(0.0005)
        assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_and_handlers_are_left_as_they_were():
    before = signal.getsignal(signal.SIGINT)
    done = []

    def elsewhere():
        at_most(0.001, lambda: busy(0.005))
        done.append(True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done
    assert signal.getsignal(signal.SIGINT) is before
