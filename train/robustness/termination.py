"""Being told to stop where there is nothing to save."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it."""


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Stop at SIGTERM as at Ctrl-C: at once, since finished batches are in their files."""

    def stop(_number, _frame) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # others may not set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_until_terminated(verb: str, work: Callable[[], object]) -> int:
    """Do ``work`` for ``scotoma <verb>``. Returns the exit status: 0, or 143 after SIGTERM."""
    with termination_as_interrupt():
        try:
            work()
        except Terminated:
            print(f"scotoma {verb}: terminated", file=sys.stderr)
            return 128 + signal.SIGTERM
    return 0
