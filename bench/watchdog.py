"""Ends a process that native code holds beyond its time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


class Watchdog:
    """After `timeout_s`, calls `record` and ends this process with the exit code that it returns.

    From a thread, and without Python's shutdown: a rendezvous that hangs in native code obeys neither exceptions nor
    signals.
    """

    def __init__(self, timeout_s: float, record: Callable[[], int]) -> None:
        self._timer = threading.Timer(timeout_s, self._expire)
        self._timer.daemon = True
        self._record = record

    def start(self) -> None:
        self._timer.start()

    def cancel(self) -> None:
        self._timer.cancel()

    def _expire(self) -> None:
        code = 1
        try:
            code = self._record()
        finally:
            os._exit(code)
