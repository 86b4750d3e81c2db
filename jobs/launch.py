"""Start the workers of one job on this machine, watch them, and take all of them down when one fails.

Event driven (pidfd and pipes in one selector): while workers are being timed, this process sleeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

GRACE_S = 5.0
"""Between the request to stop and SIGKILL."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What asks a launcher to stop; SIGUSR1 is how a batch script's --signal says that the time limit is near."""

_WORKERS_BLOCK = (signal.SIGUSR1,)
"""A batch system sends it to every process; what it means, the launcher tells its workers."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One process to start: its command, whole environment, and the CPU cores it may run on.

    With a `target` this process is forked and calls it instead of running the command: only for a process that has
    loaded what the worker needs and has no threads.
    """

    rank: int
    argv: Sequence[str]
    env: Mapping[str, str]
    cores: Sequence[int]
    target: Callable[[], int] | None = None


@dataclass
class Outcome:
    """How it went. `exit_codes` in the order in which the workers ended; a signal is negative, as in subprocess."""

    exit_codes: dict[int, int] = field(default_factory=dict)
    pids: dict[int, int] = field(default_factory=dict)
    timed_out: bool = False
    signum: int | None = None

    @property
    def first_failure(self) -> tuple[int, int] | None:
        """(rank, exit code) of the worker that failed first, before anyone was told to stop."""
        return next(((rank, code) for rank, code in self.exit_codes.items() if code), None)


class _Interrupted(Exception):
    def __init__(self, signum: int) -> None:
        self.signum = signum


def free_ports(count: int, base: int | None = None) -> list[int]:
    """`count` distinct ports on the loopback address: base, base+1, ... or, without a base, whatever is free.

    Raises OSError (errno EADDRINUSE) with the port in its `filename` when one of the wanted ports is taken.
    """
    with contextlib.ExitStack() as stack:
        ports = []
        for offset in range(count):
            listener = stack.enter_context(socket.socket())
            wanted = 0 if base is None else base + offset
            try:
                listener.bind(("127.0.0.1", wanted))
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(wanted)) from error
            ports.append(int(listener.getsockname()[1]))
        return ports


def share_cores(cores: Sequence[int], count: int, each: int | None = None) -> list[tuple[int, ...]]:
    """Cores for each of `count` workers: disjoint blocks of `each` cores, by default all that there is for each.

    With fewer cores than workers, workers share cores in turn.
    """
    size = each or max(1, len(cores) // count)
    return [tuple(sorted({cores[(rank * size + i) % len(cores)] for i in range(size)})) for rank in range(count)]


def die_with_launcher(launcher_pid: int, signum: int = signal.SIGKILL) -> None:
    """Asks the kernel to send this process a signal when the launcher that started it is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != launcher_pid:  # it was gone before the request
        os.kill(os.getpid(), signum)


def launch(
    workers: Sequence[Worker],
    *,
    timeout_s: float,
    on_stderr: Callable[[int, bytes], None],
    on_started: Callable[[], None],
) -> Outcome:
    """Runs the workers to their end, whatever that is, and leaves no process behind.

    Rank 0 inherits standard output, the others have none. Every line on standard error goes to `on_stderr(rank, line)`;
    `on_started` is called once, when all have been started.
    The first failure, the time limit and STOP_SIGNALS stop all: SIGTERM first, SIGKILL after GRACE_S. Signals that the
    caller has blocked are let through while workers run.
    """
    outcome = Outcome()
    with _signals_raise(), selectors.DefaultSelector() as selector:
        running: dict[int, int] = {}
        try:
            for worker in workers:
                running[worker.rank] = outcome.pids[worker.rank] = _start(worker, selector)
            # Only now: a worker that nobody has noted would not be stopped.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            on_started()
            _watch(running, selector, outcome, time.monotonic() + timeout_s, on_stderr)
        except _Interrupted as interrupt:
            outcome.signum = interrupt.signum
        finally:
            _stop(running, selector, outcome, on_stderr)
            for key in list(selector.get_map().values()):
                os.close(key.fd)
    return outcome


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    def interrupt(signum: int, _frame: FrameType | None) -> None:
        # A second signal must not cut the stopping short: it has its own bound.
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise _Interrupted(signum)

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    handled = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    for signum in handled:
        signal.signal(signum, interrupt)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for signum, handler in handled.items():
            signal.signal(signum, handler)


def _start(worker: Worker, selector: selectors.BaseSelector) -> int:
    """Starts a worker and returns its pid."""
    reading, writing = os.pipe()
    try:
        pid = _spawn(worker, writing) if worker.target is None else _fork(worker, worker.target, writing)
    finally:
        os.close(writing)
    os.sched_setaffinity(pid, worker.cores)  # before it has threads: all that it starts inherit it
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (worker.rank, None))
    selector.register(reading, selectors.EVENT_READ, (worker.rank, bytearray()))
    return pid


def _spawn(worker: Worker, stderr: int) -> int:
    nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)] if worker.rank else []
    return os.posix_spawn(
        worker.argv[0],
        list(worker.argv),
        dict(worker.env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *nowhere,
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ],
        setsid=True,  # Ctrl-C reaches the launcher alone, which then stops the workers in order
        setsigdef=STOP_SIGNALS,
        setsigmask=_WORKERS_BLOCK,
    )


def _fork(worker: Worker, target: Callable[[], int], stderr: int) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        devnull = os.open(os.devnull, os.O_RDWR)
        os.dup2(devnull, 0)
        if worker.rank:
            os.dup2(devnull, 1)
        os.dup2(stderr, 2)
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(worker.env)
        signal.pthread_sigmask(signal.SIG_SETMASK, _WORKERS_BLOCK)
        code = target()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _watch(
    running: dict[int, int],
    selector: selectors.BaseSelector,
    outcome: Outcome,
    deadline: float,
    on_stderr: Callable[[int, bytes], None],
) -> None:
    """Returns when none runs, when one failed, or at the deadline."""
    while running and outcome.first_failure is None:
        # An hour at most at once: the kernel takes no longer times, and a bound may be infinite.
        events = selector.select(min(3600.0, max(0.0, deadline - time.monotonic())))
        if not events and time.monotonic() >= deadline:
            outcome.timed_out = True
            return
        _handle(events, running, selector, outcome, on_stderr)


def _stop(
    running: dict[int, int],
    selector: selectors.BaseSelector,
    outcome: Outcome,
    on_stderr: Callable[[int, bytes], None],
) -> None:
    """Ends what still runs and reads what it still has to say."""
    for signum, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        for pid in running.values():
            _signal_group(pid, signum)
        deadline = time.monotonic() + patience
        while running and (left := deadline - time.monotonic()) > 0:
            _handle(selector.select(left), running, selector, outcome, on_stderr)
    # All are gone. A grandchild may still hold a pipe open, so take what is there and don't wait for its end.
    while events := selector.select(0):
        _handle(events, running, selector, outcome, on_stderr)


def _signal_group(pid: int, signum: int) -> None:
    # In the moment after a fork the worker has no group of its own yet.
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(pid, signum)
        except ProcessLookupError:
            os.kill(pid, signum)


def _handle(
    events: list[tuple[selectors.SelectorKey, int]],
    running: dict[int, int],
    selector: selectors.BaseSelector,
    outcome: Outcome,
    on_stderr: Callable[[int, bytes], None],
) -> None:
    for key, _ in events:
        rank, partial = key.data
        if partial is None:
            _, status = os.waitpid(running.pop(rank), 0)
            outcome.exit_codes[rank] = os.waitstatus_to_exitcode(status)
            selector.unregister(key.fileobj)
            os.close(key.fd)
            continue
        chunk = os.read(key.fd, 1 << 16)
        partial += chunk if chunk else b"\n"
        *lines, rest = partial.split(b"\n")
        partial[:] = rest
        for line in lines:
            if line:
                on_stderr(rank, bytes(line))
        if not chunk:
            selector.unregister(key.fileobj)
            os.close(key.fd)
