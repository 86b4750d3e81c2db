from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.benchmark import MARKER


def running_benchmarks() -> dict[int, str]:
    """pid -> command of every process that these tests started, or that such a process started, and that lives on."""
    mark = f"{MARKER}={os.getpid()}".encode()
    found = {}
    for process in psutil.process_iter():
        try:
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found[process.pid] = " ".join(process.cmdline())
        except (OSError, psutil.Error):
            continue
    return found


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """Fails a test that leaves a benchmark process behind, and ends that process for the sake of the next test."""
    before = set(running_benchmarks())
    yield
    left = {pid: command for pid, command in running_benchmarks().items() if pid not in before}
    for pid in left:
        os.kill(pid, 9)
    assert not left
