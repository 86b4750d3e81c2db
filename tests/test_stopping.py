from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmark import BOUND_S, ROOT

pytestmark = pytest.mark.commands

PROGRAM = """
import os, signal, time, weakref
from bench.stopping import Stopped, stoppable

def work(listen):
    {}

try:
    with stoppable() as listen:
        work(listen)
except Stopped as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print('stopped by', stop.signum)
"""


def python(*work: str) -> subprocess.CompletedProcess[str]:
    """Lines that a worker runs while it listens."""
    words = [sys.executable, "-c", PROGRAM.format("\n    ".join(work))]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=BOUND_S, check=False)


@pytest.mark.parametrize(
    "told",
    [
        ["os.kill(os.getpid(), signal.SIGINT)"],
        # Python lets no exception out of such a callback.
        [
            "class Thing: pass",
            "thing = Thing()",
            "watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))",
            "del thing",
        ],
        ["signal.signal(signal.SIGINT, signal.SIG_IGN)", "listen()", "os.kill(os.getpid(), signal.SIGINT)"],
        # As pybind11 does where it meets one while it raises another.
        [
            "try:",
            "    os.kill(os.getpid(), signal.SIGINT)",
            "    time.sleep(60)",
            "except BaseException as stop:",
            "    raise RuntimeError(f'an error replaced by {stop!r}')",
        ],
    ],
    ids=["anywhere", "in the callback of a weak reference", "after it was taken away", "while another error is raised"],
)
def test_a_signal_ends_what_runs_once_wherever_it_comes(told: list[str]) -> None:
    done = python(*told, "time.sleep(60)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped by 2\n", "")


def test_an_error_that_no_signal_came_before_stays_what_it_is() -> None:
    done = python("raise RuntimeError('mine')")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: mine"


def test_what_else_python_cannot_raise_is_still_told() -> None:
    done = python("class Bad:", "    def __del__(self):", "        raise ValueError('seen')", "Bad()")
    assert done.returncode == 0
    assert "ValueError: seen" in done.stderr
