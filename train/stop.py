"""Being told to stop: Ctrl-C, and SIGTERM as batch systems send it."""

from __future__ import annotations

import signal
import threading


class StopRequest:
    """Notes Ctrl-C and SIGTERM instead of dying; a second Ctrl-C dies at once."""

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> StopRequest:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
