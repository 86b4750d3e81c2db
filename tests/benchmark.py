"""Runs `python -m bench.run` as a user would, with bounds, and reads what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

ROOT = Path(__file__).parents[1]
BOUND_S = 120
MARKER = "TESTED_BY"
MAY_MOUNT = os.geteuid() == 0
"""A file system of a test's own, with little room or none to write, needs root."""
SMALL = ("--num-warmup-batches=3", "--num-batches-per-iter=2", "--num-iters=3", "--batch-size=8", "--device=cpu")


@dataclass(frozen=True)
class Benchmark:
    """A results directory and the commands that fill it."""

    results: Path

    def command(self, *flags: str) -> list[str]:
        return [sys.executable, "-m", "bench.run", *SMALL, f"--results-dir={self.results}", *flags]

    def start(self, *flags: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*flags),
            cwd=ROOT,
            env=clean_environment() | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs to the end, within BOUND_S."""
        process = self.start(*flags, env=env)
        try:
            stdout, stderr = process.communicate(timeout=BOUND_S)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.results / name)

    def only_run(self) -> dict[str, Any]:
        """The one row of `runs`."""
        rows: list[dict[str, Any]] = self.table("runs").to_dict("records")  # type: ignore[assignment]
        assert len(rows) == 1
        return rows[0]

    def left_behind(self) -> list[str]:
        """Every file and folder below the results directory."""
        return sorted(str(path.relative_to(self.results)) for path in self.results.rglob("*"))


def shard_lines(benchmark: Benchmark, rank: int, kind: str) -> int:
    """Rows of a kind that a rank of the run under way has written."""
    paths = list(benchmark.results.glob(f".shards/*/rank-{rank:05d}.jsonl"))
    return sum(json.loads(line)[0] == kind for line in paths[0].read_text().splitlines()[1:-1]) if paths else 0


def wait_until_timing(benchmark: Benchmark, process: subprocess.Popen[str], ranks: int = 2) -> None:
    """Returns when every rank has recorded some timed iterations."""
    deadline = time.monotonic() + BOUND_S
    while any(shard_lines(benchmark, rank, "iters") < 6 for rank in range(ranks)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def worker_pid(benchmark: Benchmark, rank: int) -> int:
    """The process of a rank of the run under way."""
    (path,) = benchmark.results.glob(f".shards/*/rank-{rank:05d}.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return next(int(row["pid"]) for kind, row in rows if kind == "rank" and "pid" in row)


def clean_environment() -> dict[str, str]:
    """This process's environment without what would make a run part of a cluster or give it a GPU, and with a marker
    by which the processes of these tests are known."""
    foreign = ("TF_", "TRAINSCALE_", "SLURM_", "OMPI_", "PMI_", "PMIX_", "MPI_", "HOROVOD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"CUDA_VISIBLE_DEVICES": "-1", MARKER: str(os.getpid())}


def running_benchmarks(name: str = MARKER, value: str | None = None) -> dict[int, str]:
    """pid -> command of every process that these tests started with such a variable, by default MARKER, or that such a
    process started, and that lives on."""
    mark = f"{name}={value or os.getpid()}".encode()
    found = {}
    for process in psutil.process_iter():
        try:
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found[process.pid] = " ".join(process.cmdline())
        except (OSError, psutil.Error):
            continue
    return found


def last_json(stdout: str) -> dict[str, Any]:
    """The machine-readable line of `--json`."""
    figures: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return figures
