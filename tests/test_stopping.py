from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmark import BOUND_S, ROOT

BEGIN = "import os, signal, time, weakref\nfrom bench.stopping import Stopped, stop_on_signals\nstop_on_signals()"
END = "except Stopped as stop:\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('stopped by', stop.signum)"


def python(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", f"{BEGIN}\n{code}"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=BOUND_S, check=False)


@pytest.mark.parametrize(
    "told",
    [
        "os.kill(os.getpid(), signal.SIGINT)",
        # Python lets no exception out of such a callback.
        "class Thing: pass\n    thing = Thing()\n"
        "    watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))\n    del thing",
    ],
    ids=["anywhere", "in the callback of a weak reference"],
)
def test_a_signal_ends_what_runs_once_wherever_it_comes(told: str) -> None:
    done = python(f"try:\n    {told}\n    time.sleep(60)\n{END}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped by 2\n", "")


def test_what_else_python_cannot_raise_is_still_told() -> None:
    done = python("class Bad:\n    def __del__(self):\n        raise ValueError('seen')\nBad()")
    assert done.returncode == 0
    assert "ValueError: seen" in done.stderr
