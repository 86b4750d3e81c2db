"""Faults that come from outside while a run is in its timed loop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.benchmark import Benchmark, worker_pid
from tests.forks import Forked

_JUMPS, _BETWEEN_JUMPS_S = 30, 0.1
"""For longer than the second between two of TensorFlow's looks at the heartbeats, and more often than those come."""


@dataclass(frozen=True)
class Running:
    """A run in its timed loop, and the processes that were started for it."""

    benchmark: Benchmark
    processes: Sequence[subprocess.Popen[str] | Forked]

    def pid(self, rank: int) -> int:
        return worker_pid(self.benchmark, rank)


Act = Callable[[Running], None]


def to_rank(rank: int, signum: signal.Signals) -> Act:
    """A signal to one worker."""
    return lambda running: os.kill(running.pid(rank), signum)


def to_launcher(signum: signal.Signals) -> Act:
    """A signal to who started the workers: Ctrl-C at a terminal reaches nobody else."""
    return lambda running: running.processes[0].send_signal(signum)


def to_all(signum: signal.Signals, ranks: int) -> Act:
    """What a batch system does at the time limit."""

    def act(running: Running) -> None:
        pids = [running.pid(rank) for rank in range(ranks)]
        for pid in [*(process.pid for process in running.processes), *pids]:
            os.kill(pid, signum)

    return act


def for_a_second(rank: int) -> Act:
    """A worker does nothing for a moment, and goes on."""

    def act(running: Running) -> None:
        pid = running.pid(rank)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)

    return act


def node_is_gone(rank: int) -> Act:
    """A worker and its launcher are killed at once, so that nobody is left to say so."""

    def act(running: Running) -> None:
        pid = running.pid(rank)
        running.processes[rank].kill()
        os.kill(pid, signal.SIGKILL)

    return act


def directory_is_removed(running: Running) -> None:
    shutil.rmtree(running.benchmark.results)


def disk_is_full(running: Running) -> None:
    """Takes what the file system of the results has left."""
    with (running.benchmark.results.parent / "filler").open("wb", buffering=0) as filler:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while filler.write(b"x" * size):
                    pass
            except OSError:
                continue


def directory_is_read_only(running: Running) -> None:
    """What is open can still be written, and nothing new be made."""
    results = str(running.benchmark.results)
    subprocess.run(["mount", "--bind", results, results], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", results], check=True)


def clock_is_set(running: Running) -> None:
    """The time of day becomes an hour later, time and again, for all processes at once (see clock.c).

    A single jump can fall between a heartbeat of TensorFlow's and its look at them, and is then noticed by nobody.
    """
    with (running.benchmark.results.parent / "clock").open("r+b", buffering=0) as clock:
        for hours in range(1, _JUMPS + 1):
            clock.seek(0)
            clock.write((3600 * hours).to_bytes(8, sys.byteorder))
            time.sleep(_BETWEEN_JUMPS_S)
