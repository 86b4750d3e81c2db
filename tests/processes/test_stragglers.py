"""Ranks that step together take equally long, whoever is slow; what each computes tells them apart."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.benchmark import BOUND_S, Benchmark, shard_lines, wait_until_timing, worker_pid

pytestmark = pytest.mark.processes

RUN_S, STOPPED_S = 0.02, 0.08
LONG = ("--num-workers=2", "--batch-size=64", "--num-iters=20", "--telemetry-period=0", "--json")


def throttle(process: subprocess.Popen[str], pid: int) -> None:
    """Lets a worker run for a fifth of the time, until the benchmark has ended."""
    deadline = time.monotonic() + BOUND_S
    while process.poll() is None:
        assert time.monotonic() < deadline
        try:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(STOPPED_S)
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            break
        time.sleep(RUN_S)


@pytest.mark.parametrize("strategy", ["mwms", "horovod"])
def test_only_the_slow_rank_computes_longer(benchmark: Benchmark, strategy: str) -> None:
    process = benchmark.start(f"--strategy={strategy}", *LONG)
    wait_until_timing(benchmark, process)
    before = shard_lines(benchmark, 1, "iters")
    throttle(process, worker_pid(benchmark, 1))
    _, stderr = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0, stderr
    iters = benchmark.table("iters")
    slowed = iters[iters["iter"] > before].groupby("rank")[["duration_s", "compute_s"]].sum()
    assert slowed["duration_s"][0] == pytest.approx(slowed["duration_s"][1], rel=0.2)
    assert slowed["compute_s"][1] > 2 * slowed["compute_s"][0]
    assert slowed["compute_s"][0] < slowed["duration_s"][0] / 2
