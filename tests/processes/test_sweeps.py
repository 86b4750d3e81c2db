"""Sweeps of real runs, fresh and forked, and the report on them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.benchmark import BOUND_S, ROOT, SMALL, clean_environment

pytestmark = pytest.mark.processes

SETTINGS = "\n".join(flag.removeprefix("--").replace("=cpu", '="cpu"') for flag in SMALL)


def start_sweep(folder: Path, matrix: str, *, preload: bool, repeats: int = 1) -> subprocess.Popen[str]:
    file = folder / "mini.toml"
    file.write_text(
        f"repeats = {repeats}\npreload = {str(preload).lower()}\n[settings]\n{SETTINGS}\n[matrix]\n{matrix}\n"
    )
    # As from a terminal: what a script starts in the background ignores Ctrl-C.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "jobs.sweep", str(file)]
    command.append(f"--results-dir={folder / 'data'}")
    return subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


MATRIX = """strategy = [{ strategy = "single" }, { strategy = "mwms", num_workers = 2 }, { strategy = "nonsense" }]"""


@pytest.mark.parametrize("preload", [False, True])
def test_a_sweep_runs_everything_and_the_report_shows_it(tmp_path: Path, preload: bool) -> None:
    process = start_sweep(tmp_path, MATRIX, preload=preload)
    stdout, stderr = process.communicate(timeout=BOUND_S)
    assert process.returncode == 4, stderr  # one of the three is nonsense
    assert "refused: bench.run: unknown strategy 'nonsense'" in stdout
    assert stdout.count("images/s") == 2
    runs = pd.read_parquet(tmp_path / "data" / "runs")
    assert sorted(runs["strategy"]) == ["mwms", "single"]
    assert set(runs["status"]) == {"ok"}
    assert set(runs["experiment"]) == {"mini"}
    assert set(runs["preloaded"]) == {preload}
    ranks = pd.read_parquet(tmp_path / "data" / "ranks")
    assert len(ranks) == 3
    assert ranks["pid"].nunique() == 3
    assert ranks["startup_time_s"].notna().all() != preload
    if preload:
        assert all("forked" in dict(reasons)["startup_time_s"] for reasons in runs["null_reasons"])

    words = ["--results-dir", str(tmp_path / "data"), "--output", str(tmp_path / "report"), "--experiment", "mini"]
    command = [sys.executable, "-m", "analysis.report", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BOUND_S, check=True)
    assert "mwms" in done.stdout
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.parametrize("preload", [False, True])
def test_ctrl_c_ends_a_sweep_and_keeps_what_ran(tmp_path: Path, preload: bool) -> None:
    process = start_sweep(tmp_path, 'strategy = ["single"]', preload=preload, repeats=50)
    assert process.stdout is not None
    assert "images/s" in process.stdout.readline()
    time.sleep(0.5)
    # A terminal sends Ctrl-C to the whole foreground group; here everything but the workers shares the sweep's group.
    for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        if os.getsid(member.pid) == os.getsid(0):
            member.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=BOUND_S)
    assert process.returncode == 130, (stdout, stderr)
    assert "interrupted; finished runs are kept" in stderr
    assert "Traceback" not in stdout + stderr
    statuses = set(pd.read_parquet(tmp_path / "data" / "runs")["status"])
    assert {"ok"} <= statuses <= {"ok", "interrupted"}
    assert not (tmp_path / "data" / ".shards").exists()


def test_two_sweeps_of_one_experiment_exclude_each_other(tmp_path: Path) -> None:
    first = start_sweep(tmp_path, 'strategy = ["single"]', preload=False)
    assert first.stdout is not None
    lock = tmp_path / "data" / ".sweeps"
    while not [path for path in lock.glob("*.lock") if path.read_text()]:
        assert first.poll() is None
        time.sleep(0.05)
    second = start_sweep(tmp_path, 'strategy = ["single"]', preload=False)
    stdout, stderr = second.communicate(timeout=BOUND_S)
    assert (second.returncode, stdout) == (2, "")
    who = f"process {first.pid} on {socket.gethostname()}"
    assert stderr == (
        f"jobs.sweep: experiment 'mini' is being performed by {who}: wait for it, or give another --experiment\n"
    )
    first.communicate(timeout=BOUND_S)
    assert first.returncode == 0
    assert len(pd.read_parquet(tmp_path / "data" / "runs")) == 1


@pytest.mark.parametrize("preload", [False, True])
def test_a_sweep_that_is_killed_ends_its_run_and_is_continued(tmp_path: Path, preload: bool) -> None:
    matrix = 'strategy = [{ strategy = "mwms", num_workers = 2 }]\nnum_iters = [60]'
    process = start_sweep(tmp_path, matrix, preload=preload)
    deadline = time.monotonic() + BOUND_S
    while not [path for path in tmp_path.glob("data/.shards/*/rank-*") if '"iters"' in path.read_text()]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=BOUND_S)  # until nobody holds its pipes any more
    again = start_sweep(tmp_path, matrix, preload=preload)
    stdout, stderr = again.communicate(timeout=BOUND_S)
    assert again.returncode == 0, (stdout, stderr)
    cut_off, done = pd.read_parquet(tmp_path / "data" / "runs").sort_values("started_at").to_dict("records")
    assert (cut_off["status"], cut_off["error"]) == ("interrupted", "stopped by SIGTERM")
    assert (done["status"], done["sweep_task"]) == ("ok", cut_off["sweep_task"])
    assert done["started_at"] > cut_off["ended_at"]
    assert not (tmp_path / "data" / ".shards").exists()
