"""One command at a time: a lock that ends with its holder and with every process that the holder left running."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from results.command_line import Refused

_LEFTOVERS_S = 60.0
"""How long to wait for the runs of a holder that was killed: they stop by themselves, and record how they ended."""


@contextmanager
def held(fd: int, what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of `what`, an open file, and closes it. Raises Refused with its holder's pid and host while
    somebody else does."""
    try:
        try:
            _take(fd, what, say)
        except OSError as error:  # some file systems cannot
            say(f"the results directory cannot be locked ({error.strerror}): do not start the same sweep twice")
        os.set_inheritable(fd, True)
        yield
    finally:
        os.close(fd)


def _take(fd: int, what: str, say: Callable[[str], None]) -> None:
    deadline = None
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            pid, _, host = os.pread(fd, 300, 0).decode(errors="replace").strip().partition(" ")
            dead = host == socket.gethostname() and pid.isdecimal() and not Path("/proc", pid).exists()
            if deadline is None and dead:
                say(f"process {pid}, which performed {what}, is gone: waiting for the run that it left to stop")
                deadline = time.monotonic() + _LEFTOVERS_S
            if deadline is None or time.monotonic() > deadline:
                raise Refused(
                    f"{what} is being performed by process {pid} on {host}{', or what it left' if dead else ''}: wait "
                    "for it, or give another --experiment"
                ) from None
            time.sleep(0.2)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
