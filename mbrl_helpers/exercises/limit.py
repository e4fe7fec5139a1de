"""A limit of time for what a learner wrote."""

import _thread
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")


class Late(BaseException):
    """It did not finish in time. Not an `Exception`, which what a learner wrote may catch."""


def at_most(seconds: float, call: Callable[[], Value]) -> Value:
    """Call something, and stop it after so long, as an interrupt would: between two of its lines.

    Raises:
        Late: if it had to be stopped. A learner's own interrupt stays a `KeyboardInterrupt`.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()  # only the main thread can be interrupted
    before = signal.getsignal(signal.SIGINT)
    late, over = threading.Event(), threading.Event()

    def ring() -> None:
        late.set()
        _thread.interrupt_main()

    def heard(number: int, frame: Any) -> None:
        if late.is_set():  # once, and only while the call runs
            if not over.is_set():
                over.set()
                raise Late
        elif callable(before):
            before(number, frame)
        else:  # what a shell starts in the background ignores interrupts
            raise KeyboardInterrupt

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    signal.signal(signal.SIGINT, heard)
    try:
        try:
            timer.start()
            return call()
        finally:
            over.set()
    finally:
        timer.cancel()
        timer.join()  # a bell that rings just now rings before the old handler is back
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
