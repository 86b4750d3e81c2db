"""Deadlines that real processes share, and what is found of those that miss them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.watchdog import Deadline, Watchdog
from tests.benchmark import BOUND_S, ROOT

pytestmark = pytest.mark.commands


@contextmanager
def worker(folder: Path, rank: int, then: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that can be asked for its stacks, once `folder` holds the file `ready`."""
    code = (
        f"import pathlib, time; from jobs import watchdog; folder = pathlib.Path({str(folder)!r})\n"
        f"watchdog.answer(folder, {rank})\ndef stuck_here():\n    (folder / 'ready').touch()\n    {then}\nstuck_here()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        deadline = time.monotonic() + BOUND_S
        while not (folder / "ready").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_deadline_is_seen_by_the_other_process_and_can_be_moved(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, [0, 3], bound_s=1000)
    assert watchdog.overdue([0, 3]) == {}
    Deadline(tmp_path, 3).set("timed", -1)
    ((rank, due),) = watchdog.overdue([0, 3]).items()
    assert (rank, due.phase, due.bound_s) == (3, "timed", -1)
    assert due.at_s < time.monotonic()
    assert watchdog.overdue([0]) == {}
    Deadline(tmp_path, 3).set("finish", float("inf"))
    assert watchdog.overdue([0, 3]) == {}


def test_who_reads_while_a_deadline_moves_sees_the_old_time_or_the_new(tmp_path: Path) -> None:
    """A worker moves its deadline as fast as it can; none of them has passed."""
    code = (
        f"import pathlib; from jobs.watchdog import Deadline; deadline = Deadline(pathlib.Path({str(tmp_path)!r}), 0)\n"
        "while True:\n    deadline.set('timed', 1000.0)\n    deadline.set('finish', 2000.0)"
    )
    watchdog = Watchdog(tmp_path, [0], bound_s=1000)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        seen: set[str] = set()
        looks = 0
        until = time.monotonic() + BOUND_S
        while len(seen) < 2 or looks < 200_000:
            looks = looks + 1 if seen else 0
            assert watchdog.overdue([0]) == {}
            assert process.poll() is None
            assert time.monotonic() < until
            seen |= {Deadline(tmp_path, 0).read().phase} - {"start"} if looks % 1000 == 0 else set()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("then", ["time.sleep(60)", "import ctypes\n    while True: ctypes.PyDLL(None).sleep(60)"])
def test_a_process_tells_where_it_is_even_while_it_holds_the_global_lock(tmp_path: Path, then: str) -> None:
    with worker(tmp_path, 2, then) as process:
        found = Watchdog(tmp_path, [2]).examine({2: process.pid}, stacks=True)[2]
        assert process.poll() is None
    assert not found.stopped
    assert found.stacks is not None
    assert "in stuck_here" in found.stacks


def test_a_stopped_process_is_told_apart_and_not_waited_for(tmp_path: Path) -> None:
    with worker(tmp_path, 0, "time.sleep(60)") as process:
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + BOUND_S
        while not Watchdog(tmp_path, [0]).examine({0: process.pid}, stacks=False)[0].stopped:
            assert time.monotonic() < deadline
        assert Watchdog(tmp_path, [0]).examine({0: process.pid}, stacks=True)[0].stacks is None


def test_who_cannot_be_asked_yet_is_left_alone(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        found = Watchdog(tmp_path, [0]).examine({0: process.pid}, stacks=True)[0]
        assert (found.stopped, found.stacks) == (False, None)
        assert process.poll() is None  # the signal would have ended it
    finally:
        process.kill()
        process.wait()
    assert not Watchdog(tmp_path, [0]).examine({0: process.pid}, stacks=True)[0].stopped
