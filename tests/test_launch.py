"""The launcher, with small Python processes in place of workers."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jobs.launch import Outcome, Worker, free_ports, launch, signals_heard
from jobs.watchdog import Watchdog
from tests.benchmark import ROOT

pytestmark = pytest.mark.commands

CORES = sorted(os.sched_getaffinity(0))
SLEEP = "import time; time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


def python(code: str, rank: int = 0, env: dict[str, str] | None = None) -> Worker:
    return Worker(rank=rank, argv=[sys.executable, "-c", code], env=env or dict(os.environ), cores=CORES)


def run(
    *workers: Worker,
    timeout_s: float = 30,
    bound_s: float = math.inf,
    on_started: Callable[[], None] = lambda: None,
) -> tuple[Outcome, list[tuple[int, str]]]:
    lines: list[tuple[int, str]] = []
    with tempfile.TemporaryDirectory() as folder, signals_heard() as signals:
        outcome = launch(
            workers,
            timeout_s=timeout_s,
            watchdog=Watchdog(Path(folder), [worker.rank for worker in workers], bound_s),
            signals=signals,
            on_stderr=lambda rank, line: lines.append((rank, line.decode())),
            on_started=on_started,
        )
    return outcome, lines


def test_all_end_well_and_every_line_arrives_whole() -> None:
    talk = "import sys; sys.stderr.write('one\\ntwo'); sys.stderr.flush(); sys.stderr.write('!\\nlast')"
    outcome, lines = run(python(talk), python(talk, rank=1))
    assert outcome.exit_codes == {0: 0, 1: 0}
    assert outcome.first_failure is None
    assert not outcome.timed_out
    for rank in (0, 1):
        assert [text for who, text in lines if who == rank] == ["one", "two!", "last"]


def test_one_failure_takes_the_others_down_and_is_named() -> None:
    others = psutil.Process().children()  # of the process that performs the tests
    outcome, _ = run(python(SLEEP), python("raise SystemExit(7)", rank=1), python(SLEEP, rank=2))
    assert outcome.first_failure == (1, 7)
    assert outcome.exit_codes == {1: 7, 0: -signal.SIGTERM, 2: -signal.SIGTERM}
    assert set(psutil.Process().children()) <= set(others)


def test_a_worker_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.launch.GRACE_S", 0.5)
    wait_for_deaf = "import time; time.sleep(1); raise SystemExit(3)"
    outcome, _ = run(python(DEAF), python(wait_for_deaf, rank=1))
    assert outcome.exit_codes == {1: 3, 0: -signal.SIGKILL}


def test_the_time_limit_ends_all() -> None:
    outcome, _ = run(python(SLEEP), python(SLEEP, rank=1), timeout_s=0.5)
    assert outcome.timed_out
    assert outcome.exit_codes == {0: -signal.SIGTERM, 1: -signal.SIGTERM}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_ends_all(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    outcome, _ = run(
        python(SLEEP),
        python(SLEEP, rank=1),
        on_started=lambda: threading.Timer(0.3, os.kill, (os.getpid(), signum)).start(),
    )
    assert outcome.signum == signum
    assert outcome.exit_codes == {0: -signal.SIGTERM, 1: -signal.SIGTERM}
    assert signal.getsignal(signum) == before


def test_a_signal_lets_what_the_launcher_does_meanwhile_come_to_its_end() -> None:
    done: list[str] = []

    def look_around() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append("all")

    outcome, _ = run(python(SLEEP), on_started=look_around)
    assert (outcome.signum, outcome.exit_codes, done) == (signal.SIGINT, {0: -signal.SIGTERM}, ["all"])


def test_a_signal_while_all_are_stopped_neither_cuts_that_short_nor_counts(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    stopping = "os.kill(os.getppid(), signal.SIGTERM), time.sleep(0.5), sys.exit(6)"
    told = (
        f"import os, pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: ({stopping})); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    failing = f"import os, time\nwhile not os.path.exists({str(ready)!r}): time.sleep(0.01)\nraise SystemExit(3)"
    outcome, _ = run(python(told), python(failing, rank=1))
    assert (outcome.signum, outcome.exit_codes) == (None, {1: 3, 0: 6})


def test_under_nohup_a_hangup_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        outcome, _ = run(python("import time; time.sleep(0.5)"), on_started=lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (outcome.signum, outcome.exit_codes) == (None, {0: 0})


def test_workers_get_their_environment_and_their_cores(tmp_path: Path) -> None:
    code = "import os, sys; print(sorted(os.sched_getaffinity(0)), os.environ['WHO'], len(os.environ), file=sys.stderr)"
    worker = Worker(rank=1, argv=[sys.executable, "-S", "-c", code], env={"WHO": "me", "LC_ALL": "C"}, cores=CORES[:1])
    _, lines = run(worker)
    assert lines == [(1, f"[{CORES[0]}] me 2")]


def test_a_target_is_called_in_a_fork_with_its_own_environment_and_exit_code(tmp_path: Path) -> None:
    def target() -> int:
        (tmp_path / "said").write_text(f"{os.environ['WHO']} {os.getpid() != parent} {os.getsid(0) == os.getpid()}")
        os.write(2, b"to stderr\n")
        return 5

    parent = os.getpid()
    outcome, lines = run(Worker(rank=0, argv=[], env={"WHO": "fork"}, cores=CORES, target=target))
    assert outcome.exit_codes == {0: 5}
    assert lines == [(0, "to stderr")]
    assert (tmp_path / "said").read_text() == "fork True True"


def test_workers_die_with_a_killed_launcher(tmp_path: Path) -> None:
    """SIGKILL leaves the launcher no time to clean up: the kernel does it."""
    worker = (
        "import os, pathlib, time; from jobs.launch import die_with_launcher; die_with_launcher(os.getppid()); "
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    launcher = (
        "import os, pathlib, sys; from jobs.launch import *; signals = signals_heard(); "
        f"launch([Worker(rank=0, argv=[sys.executable, '-c', {worker!r}], env=dict(os.environ), "
        "cores=sorted(os.sched_getaffinity(0)))], timeout_s=60, "
        f"watchdog=Watchdog(pathlib.Path({str(tmp_path)!r}), [0]), signals=signals.__enter__(), on_stderr=print, "
        "on_started=lambda: None)"
    )
    process = subprocess.Popen([sys.executable, "-c", launcher], cwd=ROOT)
    pid = int(eventually(lambda: (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""))
    process.kill()
    process.wait()
    assert eventually(lambda: "gone" if not alive(pid) else "") == "gone"


def eventually(read: Callable[[], str], bound_s: float = 20) -> str:
    deadline = time.monotonic() + bound_s
    while not (value := read()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def alive(pid: int) -> bool:
    """Runs, and is not a zombie that nobody has collected yet."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_ports_are_distinct_and_a_taken_one_is_named() -> None:
    assert len(set(free_ports(5))) == 5
    (taken,) = free_ports(1)
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        with pytest.raises(OSError) as caught:
            free_ports(2, base=taken)
        assert caught.value.filename == str(taken)
