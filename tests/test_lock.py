from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.lock import held
from results.command_line import Refused
from tests.benchmark import ROOT

pytestmark = pytest.mark.commands

HOLD = """
import os, sys
from jobs.lock import held
with held(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), "it", print):
    print("held", flush=True)
    if sys.argv[2] == "leave":
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1")
        os._exit(0)
    sys.stdin.read()
"""


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT)


def holder(path: Path, how: str) -> subprocess.Popen[str]:
    """Another process that holds the lock until its standard input ends, or leaves a child of one second behind."""
    words = [sys.executable, "-c", HOLD, str(path), how]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_comes_second_is_told_who_was_first(tmp_path: Path) -> None:
    path = tmp_path / "it.lock"
    first = holder(path, "stay")
    said: list[str] = []
    with pytest.raises(Refused) as caught, held(opened(path), "experiment 'e'", said.append):
        pass
    assert str(caught.value) == (
        f"experiment 'e' is being performed by process {first.pid} on {socket.gethostname()}: wait for it, or give "
        "another --experiment"
    )
    first.communicate()
    with held(opened(path), "it", said.append):
        assert path.read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert said == []


def test_the_lock_ends_with_its_holder_and_with_what_it_left(tmp_path: Path) -> None:
    path = tmp_path / "it.lock"
    first = holder(path, "leave")
    assert first.wait() == 0
    said: list[str] = []
    with held(opened(path), "it", said.append):
        pass
    assert said == [f"process {first.pid}, which performed it, is gone: waiting for the run that it left to stop"]
