"""Start the workers of one job on this machine, watch them, and take all of them down when one fails or gets stuck.

Event driven (pidfd and pipes in one selector): while workers are being timed, this process sleeps, but for a look at
their deadlines once a second.
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

from jobs.watchdog import Due, Found, Watchdog

GRACE_S = 5.0
"""Between the request to stop and SIGKILL."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What asks a launcher to stop; SIGUSR1 is how a batch script's --signal says that the time limit is near."""

_WORKERS_BLOCK = (signal.SIGUSR1,)
"""A batch system sends it to every process; what it means, the launcher tells its workers."""

_SETTLE_S = 0.5
"""From the first failure to telling the others to stop."""

_LOOK_S = 1.0
"""Time between two looks at the deadlines."""

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
    overdue: dict[int, Due] = field(default_factory=dict)
    """The deadlines that passed, by rank."""
    told: dict[int, Found] = field(default_factory=dict)
    """How those were that still ran when all were told to stop, by rank."""
    signum: int | None = None

    @property
    def first_failure(self) -> tuple[int, int] | None:
        """(rank, exit code) of the worker that failed first, before anyone was told to stop."""
        return next(((rank, code) for rank, code in self.exit_codes.items() if code), None)


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


@contextlib.contextmanager
def interrupts_wait(on_interrupt: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keeps a Ctrl-C back until a run in another process has ended, and raises KeyboardInterrupt then: the run stops
    its workers and records how it ended, which takes seconds, and to leave it earlier would lose the record."""
    interrupted = False

    def note(_signum: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        on_interrupt()  # each time: the first may have come before there was anything to stop

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if interrupted:
            raise KeyboardInterrupt


def die_with_launcher(launcher_pid: int, signum: int = signal.SIGKILL) -> None:
    """Asks the kernel to send this process a signal when the launcher that started it is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != launcher_pid:  # it was gone before the request
        os.kill(os.getpid(), signum)


def stop_signals() -> list[signal.Signals]:
    """STOP_SIGNALS, without that of a hang-up under nohup."""
    under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signum for signum in STOP_SIGNALS if not (under_nohup and signum == signal.SIGHUP)]


@contextlib.contextmanager
def signals_heard() -> Iterator[int]:
    """A descriptor that tells the numbers of STOP_SIGNALS that come, a byte each.

    None interrupts what runs here: an import or a record that is left half-way cannot be taken up again. To block them
    would not do: libraries start threads that do not.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handled = {signum: signal.signal(signum, lambda *_: None) for signum in stop_signals()}
    try:
        yield reading
    finally:
        for signum, handler in handled.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def launch(
    workers: Sequence[Worker],
    *,
    timeout_s: float,
    watchdog: Watchdog,
    signals: int,
    on_stderr: Callable[[int, bytes], None],
    on_started: Callable[[], None],
) -> Outcome:
    """Runs the workers to their end, whatever that is, and leaves no process behind.

    Rank 0 inherits standard output, the others have none. Every line on standard error goes to `on_stderr(rank, line)`;
    `on_started` is called once, when all have been started.
    The first failure, the time limit, a deadline that passed and a signal that `signals` tells (`signals_heard`) stop
    all: SIGTERM first, SIGKILL after GRACE_S, and at once for who is stuck.
    """
    with selectors.DefaultSelector() as selector:
        job = _Job(selector, watchdog, on_stderr, signals)
        try:
            for worker in workers:
                job.start(worker)
            on_started()
            job.watch(time.monotonic() + timeout_s)
        finally:
            job.stop()
    return job.outcome


class _Job:
    """The workers that run, and what is known of their end."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        watchdog: Watchdog,
        on_stderr: Callable[[int, bytes], None],
        signals: int,
    ) -> None:
        self.outcome = Outcome()
        self._running: dict[int, int] = {}
        self._selector = selector
        self._watchdog = watchdog
        self._on_stderr = on_stderr
        self._signals = selector.register(signals, selectors.EVENT_READ)

    def start(self, worker: Worker) -> None:
        reading, writing = os.pipe()
        try:
            pid = _spawn(worker, writing) if worker.target is None else _fork(worker, worker.target, writing)
        finally:
            os.close(writing)
        self._running[worker.rank] = self.outcome.pids[worker.rank] = pid
        os.sched_setaffinity(pid, worker.cores)  # before it has threads: all that it starts inherit it
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (worker.rank, None))
        self._selector.register(reading, selectors.EVENT_READ, (worker.rank, bytearray()))

    def watch(self, time_limit: float) -> None:
        """Returns when none runs, when one failed, when one is overdue, at a signal, or at the time limit."""
        look_at = time.monotonic() + _LOOK_S
        while self._running and self.outcome.first_failure is None and self.outcome.signum is None:
            if (now := time.monotonic()) >= min(look_at, time_limit):
                self.outcome.timed_out = now >= time_limit
                self.outcome.overdue = self._watchdog.overdue(self._running)
                if self.outcome.timed_out or self.outcome.overdue:
                    return
                look_at = now + _LOOK_S
            self._handle(self._selector.select(max(0.0, min(look_at, time_limit) - now)))

    def _listen(self, patience_s: float) -> None:
        """Returns when none runs, or in time."""
        deadline = time.monotonic() + patience_s
        while self._running and (left := deadline - time.monotonic()) > 0:
            self._handle(self._selector.select(left))

    def stop(self) -> None:
        """Ends what still runs, and reads what it still has to say."""
        outcome = self.outcome
        # Another signal must not cut the stopping short: it has its own bound.
        self._selector.unregister(self._signals.fileobj)
        if outcome.first_failure is not None:
            # It may only have missed another, which is then about to end by itself and must not look told.
            self._listen(_SETTLE_S)
        outcome.told = self._watchdog.examine(self._running, stacks=outcome.timed_out or bool(outcome.overdue))
        for signum, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
            for rank, pid in self._running.items():
                # Who is stuck hears nothing, and would be waited for in vain.
                stuck = rank in outcome.overdue or outcome.told[rank].stopped
                _signal_group(pid, signal.SIGKILL if stuck else signum)
            self._listen(patience)
        # All are gone. A grandchild may still hold a pipe open, so take what is there and don't wait for its end.
        while events := self._selector.select(0):
            self._handle(events)
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)

    def _handle(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in events:
            if key == self._signals:
                self.outcome.signum = os.read(key.fd, 1)[0]
                continue
            rank, partial = key.data
            if partial is None:
                _, status = os.waitpid(self._running.pop(rank), 0)
                self.outcome.exit_codes[rank] = os.waitstatus_to_exitcode(status)
                self._forget(key)
                continue
            chunk = os.read(key.fd, 1 << 16)
            partial += chunk if chunk else b"\n"
            *lines, rest = partial.split(b"\n")
            partial[:] = rest
            for line in lines:
                if line:
                    self._on_stderr(rank, bytes(line))
            if not chunk:
                self._forget(key)

    def _forget(self, key: selectors.SelectorKey) -> None:
        self._selector.unregister(key.fileobj)
        os.close(key.fd)


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
    # The fork would tell the launcher of its own signals.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid
    code = 1
    try:
        os.setsid()
        devnull = os.open(os.devnull, os.O_RDWR)
        os.dup2(devnull, 0)
        if worker.rank:
            os.dup2(devnull, 1)
        os.dup2(stderr, 2)
        signal.set_wakeup_fd(-1)
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


def _signal_group(pid: int, signum: int) -> None:
    # In the moment after a fork the worker has no group of its own yet.
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(pid, signum)
        except ProcessLookupError:
            os.kill(pid, signum)
