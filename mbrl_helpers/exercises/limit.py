"""A limit of time for what a learner wrote."""

import _thread
import contextlib
import signal
import threading
from collections.abc import Iterator


class Late(Exception):
    """What ran inside did not finish in time."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stop what runs inside after so long, as an interrupt would: between two of its lines.

    Raises:
        Late: if it had to be stopped. A learner's own interrupt stays a `KeyboardInterrupt`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can be interrupted
        return
    late = threading.Event()

    def ring() -> None:
        late.set()
        _thread.interrupt_main()

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    # What a shell starts in the background ignores interrupts, and would never be stopped.
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # a bell that rings just now must not be heard by what comes after
    except KeyboardInterrupt:
        if not late.is_set():
            raise
        raise Late from None
    finally:
        if not callable(before):
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)
