"""A sweep of small runs on the test cluster, and how to wait for what it does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tests.benchmark import BOUND_S, ROOT, SMALL, clean_environment
from tests.slurm.cluster import SlurmCluster

SETTINGS = "\n".join(flag.removeprefix("--").replace("-", "_").replace("=cpu", '="cpu"') for flag in SMALL)
ENDLESS = "num_iters = 1000000"


@dataclass(frozen=True)
class SweepOnSlurm:
    """A sweep file of small runs, and the command that performs it on the test cluster."""

    slurm: SlurmCluster
    folder: Path

    def write(self, text: str, settings: str = "") -> None:
        given = [line for line in SETTINGS.splitlines() if line.partition("=")[0].strip() not in settings]
        (self.folder / "mini.toml").write_text("\n".join([text, "[settings]", *given, settings]))

    def command(self, *flags: str) -> list[str]:
        words = [f"--results-dir={self.folder}/data", f"--scripts={self.folder}/jobs", "--shared", *flags]
        return [sys.executable, "-m", "jobs.sweep", str(self.folder / "mini.toml"), *words]

    def perform(self, *flags: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return self.slurm.call(*before, *self.command(*flags), env=clean_environment(), timeout=BOUND_S)

    @contextmanager
    def watching(self, *flags: str, before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
        """The sweep while it runs; it and its jobs end with the block."""
        process = subprocess.Popen(
            # As from a terminal: what a script starts in the background ignores Ctrl-C.
            ["env", "--default-signal=INT", *before, *self.command(*flags)],
            cwd=ROOT,
            env=clean_environment() | self.slurm.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            self.slurm.end_jobs()

    def runs(self) -> list[dict[str, Any]]:
        """Those that are recorded, by start; the table's folder exists before its first file does."""
        if not list(self.folder.glob("data/runs/date=*/*.parquet")):
            return []
        found = pd.read_parquet(self.folder / "data" / "runs")
        rows: list[dict[str, Any]] = found.sort_values("started_at").to_dict("records")  # type: ignore[assignment]
        return rows

    def job(self) -> str:
        """Number of this sweep's only job, once it is in the queue; that of another test may still be ending."""

        def queued() -> str:
            jobs = [
                line.split(maxsplit=1) for line in self.slurm.call("squeue", "-h", "-o", "%A %o").stdout.splitlines()
            ]
            return next((number for number, script in jobs if script.startswith(str(self.folder))), "")

        return str(wait_for(queued))

    def measuring(self) -> None:
        """Returns when a run is in its timed iterations."""
        wait_for(lambda: [out for out in self.folder.glob("jobs/*/*.out") if "Iter #2" in out.read_text()])


def wait_for(ask: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + BOUND_S
    while not (answer := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return answer
