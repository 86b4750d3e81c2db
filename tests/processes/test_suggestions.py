"""A command that a report suggests does what it is suggested for when it is typed as it stands."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark import ROOT, SEVERAL_S, SMALL, Benchmark, clean_environment, run_all

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

LACKING = [
    "--strategy=mirrored",
    "--devices-per-worker=2",
    "--dataset=digits",
    "--experiment=two words",
    "--optimizer=adam",
]
BASE_CASE = re.compile(r"No base case for .*?: measure it with ([^<]*)")


def report(benchmark: Benchmark, folder: Path) -> str:
    command = [sys.executable, "-m", "analysis.report", f"--results-dir={benchmark.results}", f"--output={folder}"]
    subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, check=True, timeout=SEVERAL_S)
    return (folder / "report.html").read_text()


@pytest.mark.parametrize("preloaded", [False, True])
def test_the_base_case_that_a_report_asks_for_is_one(tmp_path: Path, preloaded: bool) -> None:
    benchmark = Benchmark(tmp_path / "my data")
    if preloaded:
        run_all([[*SMALL, f"--results-dir={benchmark.results}", *LACKING]])
    else:
        assert benchmark.run(*LACKING).returncode == 0
    (command,) = BASE_CASE.findall(report(benchmark, tmp_path / "before"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = clean_environment() | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", html.unescape(command)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SEVERAL_S,
    )
    assert done.returncode == 0, done.stderr
    assert list(benchmark.table("runs").sort_values("started_at")["status"]) == ["ok", "ok"]
    assert not BASE_CASE.search(report(benchmark, tmp_path / "after"))
