"""Runs `python -m bench.run` and other commands as a user would, with bounds, and reads what they left."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil

if TYPE_CHECKING:
    from tests.forks import Forked, ForkServer

ROOT = Path(__file__).parents[1]
BOUND_S = 120
SEVERAL_S = 1200
"""Bound of a test that waits for several runs, on a machine that is busy with other work."""
MARKER = "TESTED_BY"
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
"""What decides it on any CPU; where it is not set, the CPU's instructions do."""
MAY_MOUNT = os.geteuid() == 0
"""A file system of a test's own, with little room or none to write, needs root."""
SMALL = ("--num-warmup-batches=3", "--num-batches-per-iter=2", "--num-iters=3", "--batch-size=8", "--device=cpu")


@dataclass(frozen=True)
class Benchmark:
    """A results directory and the commands that fill it: as a user types them, or as forks of `server`'s process, which
    has loaded TensorFlow already."""

    results: Path
    server: ForkServer | None = None

    @property
    def fresh(self) -> Benchmark:
        """The same for runs whose start is what is tested: processes that load TensorFlow themselves."""
        return Benchmark(self.results)

    def command(self, *flags: str) -> list[str]:
        return [sys.executable, "-m", "bench.run", *SMALL, f"--results-dir={self.results}", *flags]

    def start(
        self, *flags: str, env: Mapping[str, str] | None = None, patch: str = ""
    ) -> subprocess.Popen[str] | Forked:
        """Starts a run, in a fork after the statements `patch`, which see the functions of `tests.faults.inside`."""
        env = env or {}
        if self.server:
            assert not [name for name in env if name.startswith("TF_") and name != "TF_CONFIG"], "read at loading"
            return self.server.start(self.command(*flags)[3:], clean_environment() | dict(env), ROOT, patch)
        assert not patch, "of a process that is there before the run"
        return subprocess.Popen(
            self.command(*flags),
            cwd=ROOT,
            env=clean_environment() | dict(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *flags: str, env: Mapping[str, str] | None = None, patch: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs to the end, within BOUND_S."""
        process = self.start(*flags, env=env, patch=patch)
        try:
            stdout, stderr = process.communicate(timeout=BOUND_S)
        finally:
            process.kill()
        return subprocess.CompletedProcess(flags, process.returncode, stdout, stderr)

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


def run_all(lines: Sequence[Sequence[str]], env: Mapping[str, str] | None = None) -> list[str]:
    """Runs `bench.run` with each of these lists of arguments, in forks of one process that has loaded TensorFlow with
    the variables `env`; what each printed. All must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.preload"],
        cwd=ROOT,
        env=clean_environment() | dict(env or {}),
        input="".join(f"{json.dumps([*words])}\n" for words in lines),
        capture_output=True,
        text=True,
        timeout=SEVERAL_S,
        check=True,
    )
    *printed, rest = done.stdout.split('{"exit_code": 0}\n')
    assert (len(printed), rest) == (len(lines), ""), done.stdout + done.stderr
    return printed


def commands_of(document: Path) -> list[str]:
    """The shell commands of a document, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(), re.S)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def perform(command: str, folder: Path) -> str:
    """Runs a python command of a document, in a folder; what it prints. It must succeed."""
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=folder,
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SEVERAL_S,
        check=False,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout


def shard_lines(benchmark: Benchmark, rank: int, kind: str) -> int:
    """Rows of a kind that a rank of the run under way has written."""
    paths = list(benchmark.results.glob(f".shards/*/rank-{rank:05d}.jsonl"))
    return sum(json.loads(line)[0] == kind for line in paths[0].read_text().splitlines()[1:-1]) if paths else 0


def wait_until_timing(benchmark: Benchmark, process: subprocess.Popen[str] | Forked, ranks: int = 2) -> None:
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


def null(value: Any) -> bool:
    """Whether a cell of a table is."""
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def last_json(stdout: str) -> dict[str, Any]:
    """The machine-readable line of `--json`."""
    figures: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return figures
