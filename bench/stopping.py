"""How a worker that is told to stop gets to its last words."""

from __future__ import annotations

import signal
import sys
from types import FrameType

_AGAIN_S = 0.01


class Stopped(BaseException):
    """By SIGTERM or SIGINT: not an Exception, so that nothing that trains swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def stop_on_signals() -> None:
    """Makes SIGTERM and SIGINT raise Stopped in this process, once."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        # Once: a batch system signals every process, and then this one's launcher does so too.
        ignore_signals()
        raise Stopped(signum)

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        # It came where Python lets no exception through, as in the callback of a weak reference: once more, elsewhere.
        problem = unraisable.exc_value
        if not isinstance(problem, Stopped):
            sys.__unraisablehook__(unraisable)
            return
        signal.signal(signal.SIGALRM, lambda *_: stop(problem.signum, None))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)

    sys.unraisablehook = again
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)


def ignore_signals() -> None:
    """Those that come from here on change nothing."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(signum, signal.SIG_IGN)
