"""A sweep outlives its launcher, a node and the scheduler: it goes on or continues, and nothing runs twice."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.benchmark import BOUND_S
from tests.slurm.sweeps import SweepOnSlurm, wait_for

pytestmark = pytest.mark.processes

LONGER = "num_iters = 100"


def jobs_submitted(sweep: SweepOnSlurm) -> int:
    """Jobs of this sweep that Slurm has ever had."""
    shown = sweep.slurm.call("squeue", "-h", "--states=all", "-o", "%o").stdout.splitlines()
    return sum(line.startswith(str(sweep.folder)) for line in shown)


def test_a_scheduler_that_dies_during_a_job_is_waited_for(sweep: SweepOnSlurm) -> None:
    sweep.write('[matrix]\nstrategy = ["single"]', settings="num_iters = 400")
    with sweep.watching("--submit", "--retries=0") as watcher:
        job = sweep.job()
        sweep.measuring()
        sweep.slurm.kill_controller()
        assert watcher.stdout is not None
        said = next(line for line in watcher.stdout if "job " not in line)
        sweep.slurm.restart_controller()
        stdout, _ = watcher.communicate(timeout=BOUND_S)
    assert watcher.returncode == 0, stdout
    assert re.fullmatch(r"squeue failed: .*; jobs go on, asking again for 30 min\n", said)
    assert "; jobs go on" not in stdout
    assert stdout.count("Slurm answers again") == 1
    assert [(run["status"], run["job_id"], run["restart_count"]) for run in sweep.runs()] == [("ok", job, 0)]
    assert jobs_submitted(sweep) == 1


def test_a_job_whose_number_was_never_heard_is_not_submitted_again(sweep: SweepOnSlurm) -> None:
    """A stand-in for sbatch submits the job and says that nobody answered."""
    sweep.write('[matrix]\nstrategy = ["single"]')
    path, real = sweep.folder / "sbatch", sweep.slurm.call("which", "sbatch").stdout.strip()
    path.write_text(
        f'#!/bin/sh\n{real} "$@" || exit\n[ $1 = --test-only ] && exit\nrm $0\n'
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2\nexit 1\n"
    )
    path.chmod(0o755)
    done = sweep.perform("--submit", "--retries=0", before=("env", f"PATH={sweep.folder}:{Path(real).parent}:/bin"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sbatch failed: error: Batch job submission failed: Socket timed out" in done.stdout
    assert [run["status"] for run in sweep.runs()] == ["ok"]
    assert jobs_submitted(sweep) == 1


def test_a_node_that_dies_costs_the_run_that_it_had_and_no_other(sweep: SweepOnSlurm) -> None:
    sweep.write('repeats = 2\n[matrix]\nstrategy = ["single"]', settings=LONGER)
    with sweep.watching("--submit", "--retries=0") as watcher:
        job = sweep.job()
        wait_for(sweep.runs)  # the first repeat is done
        wait_for(lambda: [out for out in sweep.folder.glob("jobs/*/*.out") if out.read_text().count("Iter #2:") == 2])
        (cut_off,) = (path.name for path in sweep.folder.glob("data/.shards/*"))
        node = sweep.slurm.call("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
        sweep.slurm.kill_node(node)
        try:
            wait_for(lambda: sweep.slurm.call("squeue", "-h", "-t", "PENDING").stdout)
            sweep.slurm.call("scontrol", "update", f"jobid={job}", "starttime=now")  # not in two minutes
            stdout, _ = watcher.communicate(timeout=BOUND_S)
        finally:
            sweep.slurm.restart_node(node)
    assert watcher.returncode == 0, stdout
    done, again = sweep.runs()
    assert [(run["status"], run["job_id"], run["restart_count"]) for run in (done, again)] == [
        ("ok", job, 0),
        ("ok", job, 1),
    ]
    assert again["restart_of"] == cut_off
    assert jobs_submitted(sweep) == 1


def test_a_watcher_that_is_killed_is_continued_and_its_job_runs_once(sweep: SweepOnSlurm) -> None:
    sweep.write('repeats = 2\n[matrix]\nstrategy = ["single"]', settings=LONGER)
    with sweep.watching("--submit") as watcher:
        job = sweep.job()
        sweep.measuring()
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
        done = sweep.perform("--submit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(run["status"], run["job_id"]) for run in sweep.runs()] == [("ok", job)] * 2
    assert jobs_submitted(sweep) == 1
