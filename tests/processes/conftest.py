from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmark import Benchmark, running_benchmarks
from tests.forks import ForkServer

END_S = 5
"""Who waits for a launcher may end a little after it."""


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture
def benchmark(tmp_path: Path, fork_server: ForkServer) -> Benchmark:
    """`bench.run` in forks, with results in a folder of the test's own."""
    return Benchmark(tmp_path / "data", fork_server)


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """Fails a test that leaves a benchmark process behind, and ends that process for the sake of the next test."""
    before = set(running_benchmarks())
    yield
    deadline = time.monotonic() + END_S
    while (left := _others(before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, 9)
    assert not left


def _others(pids: set[int]) -> dict[int, str]:
    return {pid: command for pid, command in running_benchmarks().items() if pid not in pids}
