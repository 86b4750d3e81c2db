"""Performs a case of the matrix with real processes, and sees what is left of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from jobs.launch import free_ports
from results.check import check
from tests.benchmark import BOUND_S, ROOT, Benchmark, clean_environment, running_benchmarks, shard_lines
from tests.faults.cases import Case
from tests.faults.outside import Running
from tests.forks import Forked, ForkServer
from tests.processes.test_mpi import AS_ROOT, MPIRUN
from tests.synthetic_store import add_run

EARLIER = "20260101T000000-earlier"
GONE_S = 15
"""When a bound has passed, or who watches is dead, every process ends within so many seconds."""
ENDLESS = ("--num-iters=100000", "--telemetry-period=0")
MARK = "FAULT_CASE"
NOTHING = "nothing was measured"


@dataclass(frozen=True)
class Outcome:
    """What came of a case: a row of the matrix."""

    status: str
    exit_code: int
    failed_rank: int | None
    failed_phase: str | None
    recovered: bool
    """The run was not recorded until `results.check --recover`."""
    stderr: str
    iters: pd.DataFrame
    before: dict[int, int]
    """Rank -> iterations that it had written when something happened from outside."""
    others_unchanged: bool
    ended_after_s: float
    """From what happened from outside, or else from the start, to the end of all processes."""
    left: dict[int, str]
    """pid -> command of processes that live on."""
    sound: bool
    """In the end `results.check` finds nothing wrong with the store."""


def perform(case: Case, folder: Path, server: ForkServer) -> Outcome:
    """Runs it to its end, within BOUND_S."""
    folder.mkdir()
    with _file_system(case, folder) as benchmark:
        add_run(benchmark.results, run_id=EARLIER)
        earlier = _digests(benchmark.results)
        processes = _start(case, benchmark, server)
        running = Running(benchmark, processes)
        try:
            before = _wait_until_timing(case, running) if case.outside else {}
            began = time.monotonic()
            if case.outside:
                case.outside(running)
            outputs = [process.communicate(timeout=BOUND_S) for process in processes]
            left = _left(folder)
            ended_after_s = time.monotonic() - began
        finally:
            for process in processes:
                process.kill()
            for pid in _running(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        _mend(case, folder, benchmark)
        recorded = _runs(benchmark)
        _, findings = check(benchmark.results, recover=True, older_than_s=0)
        runs = _runs(benchmark)
        row = runs[0] if runs else {"status": NOTHING}
        after = _digests(benchmark.results)
        return Outcome(
            status=row["status"],
            exit_code=processes[0].returncode,
            failed_rank=None if pd.isna(row.get("failed_rank")) else int(row["failed_rank"]),
            failed_phase=None if pd.isna(row.get("failed_phase")) else str(row["failed_phase"]),
            recovered=len(runs) > len(recorded),
            stderr="".join(stderr for _, stderr in outputs),
            iters=_iters(benchmark, row.get("run_id")),
            before=before,
            others_unchanged={path: after.get(path) for path in earlier} == earlier,
            ended_after_s=ended_after_s,
            left=left,
            sound=all(finding.mended for finding in findings),
        )


def _start(case: Case, benchmark: Benchmark, server: ForkServer) -> Sequence[subprocess.Popen[str] | Forked]:
    flags = [flag for flag in ENDLESS if flag.split("=")[0] not in "".join(case.flags)]
    command = benchmark.command(*flags, *case.flags)
    folder = benchmark.results.parent
    env = clean_environment() | {MARK: str(folder)}
    # A library that is loaded first, and mpirun, need a process that executes a program.
    if case.clock:
        return [
            _popen(command, env | {"LD_PRELOAD": str(_clock_library(folder)), "FAULTY_CLOCK": str(folder / "clock")})
        ]
    if case.start == "mpirun":
        words = [str(MPIRUN), "-np", "2", "--oversubscribe", "--bind-to", "none", *command]
        return [_popen(words, env | AS_ROOT)]
    if case.start == "alone":
        return [server.start(command[3:], env, folder, case.inside)]
    ranks = 3 if "--strategy=ps" in case.flags else 2
    roles = ["chief", "worker", "ps"] if ranks == 3 else ["worker"] * 2
    addresses = [f"127.0.0.1:{port}" for port in free_ports(ranks)]
    cluster = {role: [a for a, r in zip(addresses, roles, strict=True) if r == role] for role in roles}
    tasks = [{"type": role, "index": roles[:rank].count(role)} for rank, role in enumerate(roles)]
    return [
        server.start(
            [*command[3:], "--cores-per-device=1"],
            env | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})},
            folder,
            case.inside,
        )
        for rank, task in enumerate(tasks)
        if rank != case.absent
    ]


def _popen(command: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    # As from a terminal: what is started in the background ignores Ctrl-C.
    words = ["env", "--default-signal=INT", *command]
    return subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_until_timing(case: Case, running: Running) -> dict[int, int]:
    deadline = time.monotonic() + BOUND_S
    while True:
        before = {rank: shard_lines(running.benchmark, rank, "iters") for rank in range(case.writers)}
        if min(before.values()) > case.kept:
            return before
        if (over := next((process for process in running.processes if process.poll() is not None), None)) is not None:
            raise AssertionError(over.communicate())
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _running(folder: Path) -> dict[int, str]:
    """pid -> command of every process of a case that lives on.

    A fork shows the environment of the process that it was forked from: it is known by its current directory, which all
    that it starts inherits.
    """
    found = running_benchmarks(MARK, str(folder))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder):
                found[process.pid] = " ".join(process.cmdline())
    return found


def _left(folder: Path) -> dict[int, str]:
    deadline = time.monotonic() + GONE_S
    while (left := _running(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


@contextlib.contextmanager
def _file_system(case: Case, folder: Path) -> Iterator[Benchmark]:
    if not case.small_disk:
        yield Benchmark(folder / "data")
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        yield Benchmark(folder / "data")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mend(case: Case, folder: Path, benchmark: Benchmark) -> None:
    """What a user would do before looking at what is left: make room, mount the directory again."""
    (folder / "filler").unlink(missing_ok=True)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for _ in range(mounts.count(str(benchmark.results))):
        subprocess.run(["umount", "--lazy", str(benchmark.results)], check=True)


def _clock_library(folder: Path) -> Path:
    (folder / "clock").write_bytes(bytes(8))
    source, library = Path(__file__).with_name("clock.c"), folder / "clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    return library


def _runs(benchmark: Benchmark) -> list[dict[str, Any]]:
    runs = benchmark.table("runs") if (benchmark.results / "runs").is_dir() else pd.DataFrame({"run_id": []})
    rows: list[dict[str, Any]] = runs[runs["run_id"] != EARLIER].to_dict("records")  # type: ignore[assignment]
    return rows


def _iters(benchmark: Benchmark, run_id: object) -> pd.DataFrame:
    if run_id is None:
        return pd.DataFrame({"rank": [], "iter": []})
    iters = benchmark.table("iters")
    return iters[iters["run_id"] == run_id].sort_values(["rank", "iter"])


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.glob("*/date=*/*.parquet")
    }
