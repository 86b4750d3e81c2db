"""The clock of everything that is measured."""

from __future__ import annotations

import time


class Clock:
    """Unix time that runs with the monotonic clock: a clock that is set during a run moves no measurement."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.perf_counter_ns()

    def now_ns(self) -> int:
        """ns since 1970 on this host's clock as it was when the Clock was made."""
        return time.perf_counter_ns() + self._offset_ns
