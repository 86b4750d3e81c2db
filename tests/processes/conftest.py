from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.benchmark import running_benchmarks


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """Fails a test that leaves a benchmark process behind, and ends that process for the sake of the next test."""
    before = set(running_benchmarks())
    yield
    left = {pid: command for pid, command in running_benchmarks().items() if pid not in before}
    for pid in left:
        os.kill(pid, 9)
    assert not left
