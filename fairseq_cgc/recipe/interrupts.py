"""Interrupts while modules are imported."""

import signal
from contextlib import contextmanager


@contextmanager
def ending_at_once():
    """Let an interrupt and SIGTERM end the process at once, while nothing is half-written yet.

    An exception in the middle of numpy's import is taken for a damaged installation, or swallowed.
    """
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.SIG_DFL) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
