from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def running_benchmarks() -> dict[int, str]:
    """pid -> command of every `bench.run` process on this machine that has not ended."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            zombie = "\nState:\tZ" in (folder / "status").read_text()
        except OSError:
            continue
        if "bench.run" in command and not zombie:
            found[int(folder.name)] = command
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
