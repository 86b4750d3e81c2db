"""By when a worker must have got further: it says so in memory that it shares with its launcher, which keeps the time.

A worker that hangs in native code can neither end itself nor say so: it may hold Python's global lock for ever. While
all goes well nothing is sent and nobody is woken: the worker writes a few bytes, the launcher looks once a second.
"""

from __future__ import annotations

import faulthandler
import math
import mmap
import os
import signal
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SIZE, _PHASE = 32, 16
"""Bytes that are shared: when time is up [s on the host's monotonic clock] and how long that was [s], a double each,
and from _PHASE on the phase."""

_STACKS = signal.SIGQUIT
"""Asks a worker where its threads are; whatever they do, it answers from the signal's handler, without Python."""

_STACKS_S, _LOOK_S = 1.0, 0.05
"""How long a worker may take to answer, and the time between two looks."""


@dataclass(frozen=True)
class Due:
    """When a worker must have got further."""

    at_s: float
    """On the host's monotonic clock."""
    bound_s: float
    phase: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """How a worker was when its time was up."""

    stopped: bool
    """By SIGSTOP, or by a debugger: it will do nothing until it is told to go on."""
    stacks: str | None
    """What each thread was doing; None where it gave no answer."""


class Deadline:
    """What a worker and its launcher share, in a file of the launcher's folder."""

    def __init__(self, folder: Path, rank: int) -> None:
        descriptor = os.open(folder / f"deadline-{rank}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)  # on a disk that is full, memory without a file kills
            self._memory = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._times = memoryview(self._memory)[:_PHASE].cast("d")

    def set(self, phase: str, bound_s: float) -> None:
        """From now on there are `bound_s` s until the next call."""
        self._times[1] = bound_s
        self._memory[_PHASE:] = phase.encode().ljust(_SIZE - _PHASE, b"\0")
        # Last, and in one store of the processor: who reads meanwhile sees the old time or this one, never a third.
        self._times[0] = time.monotonic() + bound_s

    def read(self) -> Due:
        phase = self._memory[_PHASE:].rstrip(b"\0").decode(errors="replace")
        return Due(self._times[0], self._times[1], phase)


def answer(folder: Path, rank: int) -> None:
    """Makes this worker tell where its threads are when its launcher asks."""
    path = _stacks_file(folder, rank)
    with path.with_suffix(".new").open("w") as file:
        faulthandler.register(_STACKS, os.dup(file.fileno()), all_threads=True)
    path.with_suffix(".new").rename(path)  # it may be asked now


class Watchdog:
    """The launcher's view of its workers. `bound_s` [s] is what each has until it sets a deadline of its own."""

    def __init__(self, folder: Path, ranks: Collection[int], bound_s: float = math.inf) -> None:
        self._folder = folder
        self._deadlines = {rank: Deadline(folder, rank) for rank in ranks}
        for deadline in self._deadlines.values():
            deadline.set("start", bound_s)

    def overdue(self, ranks: Collection[int]) -> dict[int, Due]:
        """Those of the workers whose time is up."""
        said = {rank: self._deadlines[rank].read() for rank in ranks}
        return {rank: due for rank, due in said.items() if due.at_s <= time.monotonic()}

    def examine(self, pids: Mapping[int, int], *, stacks: bool) -> dict[int, Found]:
        """How workers are, by rank; with `stacks` those that can are asked for them."""
        stopped = {rank for rank, pid in pids.items() if _state(pid) in "Tt"}
        asked = [rank for rank in pids if stacks and rank not in stopped and _stacks_file(self._folder, rank).exists()]
        for rank in asked:
            with suppress(ProcessLookupError):
                os.kill(pids[rank], _STACKS)
        self._wait_for(asked)
        return {rank: Found(stopped=rank in stopped, stacks=self._stacks(rank)) for rank in pids}

    def _wait_for(self, ranks: Collection[int]) -> None:
        deadline, before = time.monotonic() + _STACKS_S, None
        while ranks and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            sizes = [_stacks_file(self._folder, rank).stat().st_size for rank in ranks]
            if all(sizes) and sizes == before:
                return
            before = sizes

    def _stacks(self, rank: int) -> str | None:
        with suppress(FileNotFoundError):
            return _stacks_file(self._folder, rank).read_text(errors="replace").strip() or None
        return None


def _stacks_file(folder: Path, rank: int) -> Path:
    return folder / f"stacks-{rank}.txt"


def _state(pid: int) -> str:
    """The kernel's letter for what a process does; X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"
