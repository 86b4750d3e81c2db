"""How a worker that is told to stop gets to its last words."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

_AGAIN_S = 0.01


class Stopped(BaseException):
    """By SIGTERM or SIGINT: not an Exception, so that nothing that trains swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """What runs here ends with Stopped, once, when SIGTERM or SIGINT comes; after it they change nothing, so that they
    cut off no last words. Gives what listens to them anew, for after a library has taken them away."""
    heard: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        # Once: a batch system signals every process, and then this one's launcher does so too.
        _ignore_signals()
        heard.append(signum)
        raise Stopped(signum)

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        # It came where Python lets no exception through, as in the callback of a weak reference: once more, elsewhere.
        problem = unraisable.exc_value
        if not isinstance(problem, Stopped):
            sys.__unraisablehook__(unraisable)
            return
        signal.signal(signal.SIGALRM, lambda *_: stop(problem.signum, None))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)

    def listen() -> None:
        sys.unraisablehook = again
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, stop)

    listen()
    try:
        yield listen
    except Exception as problem:
        # It came while an extension was raising an error of its own, which then makes a third of the two.
        if heard:
            raise Stopped(heard[0]) from problem
        raise
    finally:
        _ignore_signals()


def _ignore_signals() -> None:
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(signum, signal.SIG_IGN)
