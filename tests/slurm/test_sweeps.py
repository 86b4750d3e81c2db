"""Sweeps in an allocation and as jobs, and the days on which Slurm does not do what was asked."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.benchmark import BOUND_S, ROOT, SMALL, clean_environment
from tests.slurm.sweeps import ENDLESS, SweepOnSlurm, wait_for

pytestmark = pytest.mark.processes


def test_a_sweep_runs_in_an_allocation_and_continues_where_it_was_cut_off(sweep: SweepOnSlurm) -> None:
    sweep.write('[matrix]\nstrategy = [{ strategy = "single" }, { strategy = "mwms", nodes = 2 }, { strategy = "x" }]')
    done = sweep.perform("--retries=0", "--only=*single*", before=("salloc", "-N2", "--quiet"))
    assert done.returncode == 0, done.stdout + done.stderr
    done = sweep.perform("--retries=0", before=("salloc", "-N2", "--quiet"))
    assert done.returncode == 4, done.stdout + done.stderr
    assert "1 of 3 runs of experiment 'mini' are done already" in done.stdout
    assert re.search(r"x-1x1, repeat 1: refused: bench.run: unknown strategy 'x'", done.stdout)
    runs = sweep.runs()
    assert [(run["strategy"], run["status"], run["num_nodes"]) for run in runs] == [
        ("single", "ok", 1),
        ("mwms", "ok", 2),
    ]
    assert len({run["job_id"] for run in runs}) == 2


def test_jobs_are_submitted_a_node_count_and_the_dead_configuration_stops_no_other(sweep: SweepOnSlurm) -> None:
    sweep.write('[matrix]\nstrategy = ["single", { strategy = "horovod", nodes = 2 }, "x"]')
    done = sweep.perform("--submit", "--max-queued=1", "--retries=1", "--mpi=none")
    assert done.returncode == 4, done.stdout + done.stderr
    assert re.search(r"x-1x1, repeat 1: refused: bench.run: unknown strategy 'x'.*; once more later", done.stdout)
    assert re.search(r"^  3/3 x-1x1, repeat 1: refused: .*(?<!later)$", done.stdout, re.M)
    assert "1 of 3 runs failed" in done.stdout
    assert {run["strategy"]: run["status"] for run in sweep.runs()} == {"single": "ok", "horovod": "ok"}
    scripts = sorted(path.name for path in sweep.folder.glob("jobs/mini/*.sh"))
    assert sorted(name[4:] for name in scripts) == ["1-node.sh", "1-node.sh", "2-nodes.sh"]
    again = sweep.perform("--submit", "--only=*o*", "--retries=0")
    assert (again.returncode, again.stdout.count("job ")) == (0, 0)
    assert "2 of 2 runs of experiment 'mini' are done already" not in again.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--partition=closed"], "was withdrawn, it could never start (PartitionDown)"),
        (["--partition=nowhere"], "sbatch refused: error: invalid partition specified: nowhere"),
        (["--extra-sbatch=--nodelist=node99"], "sbatch refused: allocation failure: Invalid node name specified"),
        (["--constraint=quantum"], "sbatch refused: allocation failure: Invalid feature specification"),
        (["--gres=gpu:9"], "sbatch refused: allocation failure: Requested node configuration is not available"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_slurm_will_not_start_is_said_and_recorded(sweep: SweepOnSlurm, flags: list[str], message: str) -> None:
    sweep.write('repeats = 2\n[matrix]\nstrategy = ["single"]')
    done = sweep.perform("--submit", *flags)
    assert done.returncode == 4, done.stdout + done.stderr
    assert done.stdout.count(message) == 2
    runs = sweep.runs()
    assert [(run["status"], run["strategy"]) for run in runs] == [("failed", "single")] * 2
    assert all(message.partition(" (")[0] in run["error"] for run in runs)


def test_more_nodes_than_the_cluster_has_are_refused_by_it(sweep: SweepOnSlurm) -> None:
    sweep.write('[matrix]\nstrategy = [{ strategy = "mwms", nodes = 99 }]')
    done = sweep.perform("--submit")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "sbatch refused: " in done.stdout
    assert [run["status"] for run in sweep.runs()] == ["failed"]


def test_a_job_that_is_cancelled_before_it_starts_is_recorded(sweep: SweepOnSlurm) -> None:
    sweep.write('[matrix]\nstrategy = ["single"]')
    with sweep.watching("--submit", "--retries=0", "--extra-sbatch=--begin=now+1hour") as watcher:
        job = sweep.job()
        sweep.slurm.call("scancel", job)
        stdout, _ = watcher.communicate(timeout=BOUND_S)
    assert watcher.returncode == 4, stdout
    (run,) = sweep.runs()
    assert run["status"] == "interrupted"
    assert re.fullmatch(rf"job {job} ended before this run began: CANCELLED.*", run["error"])
    assert run["error"] in stdout


@pytest.mark.parametrize(
    ("signal_words", "status", "error"),
    [
        ([], "interrupted", "stopped by SIGTERM"),
        (["--signal=USR1"], "timeout", "stopped by SIGUSR1, the job's time limit is near: ask the batch system"),
    ],
    ids=["cancelled", "time limit"],
)
def test_a_job_that_is_stopped_while_it_measures_records_what_it_measured(
    sweep: SweepOnSlurm, signal_words: list[str], status: str, error: str
) -> None:
    sweep.write('[matrix]\nstrategy = [{ strategy = "mwms", nodes = 2 }]', settings=ENDLESS)
    with sweep.watching("--submit", "--retries=0") as watcher:
        job = sweep.job()
        sweep.measuring()
        sweep.slurm.call("scancel", *signal_words, job)
        stdout, _ = watcher.communicate(timeout=BOUND_S)
    assert watcher.returncode == 4, stdout
    (run,) = sweep.runs()
    assert (run["status"], run["job_id"]) == (status, job)
    assert run["error"].startswith(error)
    assert f"{status}: {error}" in stdout
    iters = pd.read_parquet(sweep.folder / "data" / "iters")
    assert (iters["rank"] == 0).sum() > 3
    assert set(iters["rank"]) == {0, 1}


def test_a_job_that_slurm_starts_again_links_its_second_run_to_the_first(sweep: SweepOnSlurm) -> None:
    sweep.write('repeats = 2\n[matrix]\nstrategy = ["single"]', settings="num_iters = 300")
    with sweep.watching("--submit", "--retries=0") as watcher:
        job = sweep.job()
        wait_for(sweep.runs)  # the first repeat is done
        wait_for(lambda: [out for out in sweep.folder.glob("jobs/*/*.out") if out.read_text().count("Iter #2:") == 2])
        sweep.slurm.call("scontrol", "requeue", job)
        wait_for(lambda: sweep.slurm.call("squeue", "-h", "-t", "PENDING").stdout)
        sweep.slurm.call("scontrol", "update", f"jobid={job}", "starttime=now")  # not in two minutes
        stdout, _ = watcher.communicate(timeout=BOUND_S)
    assert watcher.returncode == 0, stdout
    done, cut_off, second = sweep.runs()
    assert [run["status"] for run in (done, cut_off, second)] == ["ok", "interrupted", "ok"]
    assert [run["restart_count"] for run in (done, cut_off, second)] == [0, 0, 1]
    assert {run["job_id"] for run in (done, cut_off, second)} == {job}
    assert second["restart_of"] == cut_off["run_id"]
    assert second["sweep_task"] == cut_off["sweep_task"] != done["sweep_task"]


def test_a_node_that_fails_ends_in_a_recorded_run(sweep: SweepOnSlurm) -> None:
    sweep.write('[matrix]\nstrategy = [{ strategy = "mwms", nodes = 2 }]', settings=ENDLESS)
    with sweep.watching("--submit", "--retries=0", "--extra-sbatch=--no-requeue") as watcher:
        sweep.job()
        sweep.measuring()
        down = ("scontrol", "update", "nodename=node2", "state=down", "reason=test")
        sweep.slurm.call(*down)
        try:
            stdout, _ = watcher.communicate(timeout=BOUND_S)
        finally:
            sweep.slurm.call("scontrol", "update", "nodename=node2", "state=resume")
    assert watcher.returncode == 4, stdout
    (run,) = sweep.runs()
    assert run["status"] in ("interrupted", "failed"), stdout
    assert run["error"] in stdout
    assert len(pd.read_parquet(sweep.folder / "data" / "iters")) > 3


def test_two_jobs_on_one_node_do_not_meet(sweep: SweepOnSlurm) -> None:
    """Both start mwms and horovod with two tasks on the same node at the same time."""
    sweep.write('[matrix]\nstrategy = ["mwms", "horovod"]\ntasks_per_node = 2')
    flags = ("--submit", "--job-per=configuration", "--extra-sbatch=--nodelist=node3", "--mpi=none", "--retries=0")
    done = sweep.perform(*flags)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = sweep.runs()
    assert first["status"] == second["status"] == "ok"
    assert first["job_id"] != second["job_id"]
    assert second["started_at"] < first["ended_at"]  # at the same time indeed
    ranks = pd.read_parquet(sweep.folder / "data" / "ranks")
    assert set(ranks["hostname"]) == {"node3"}


def test_a_watcher_that_is_interrupted_finds_its_jobs_again(sweep: SweepOnSlurm) -> None:
    sweep.write('[matrix]\nstrategy = ["single"]')
    with sweep.watching("--submit", "--extra-sbatch=--hold") as watcher:
        job = sweep.job()
        time.sleep(1)
        watcher.send_signal(signal.SIGINT)
        stdout, _ = watcher.communicate(timeout=BOUND_S)
        assert watcher.returncode == 130, stdout
        assert f"jobs that go on: {job}; the same command continues" in stdout
        sweep.slurm.call("scontrol", "release", job)
        done = sweep.perform("--submit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images/s" in done.stdout
    assert [run["job_id"] for run in sweep.runs()] == [job]
    assert len(list(sweep.folder.glob("jobs/mini/*.sh"))) == 1


def test_ctrl_c_in_an_allocation_keeps_what_was_measured(sweep: SweepOnSlurm) -> None:
    sweep.write('[matrix]\nstrategy = [{ strategy = "mwms", nodes = 2 }]', settings=ENDLESS)
    with sweep.watching(before=("salloc", "-N2", "--quiet")) as process:
        shards = "data/.shards/*/rank-*"
        wait_for(lambda: [shard for shard in sweep.folder.glob(shards) if '"iters"' in shard.read_text()])
        (sweeping,) = (child for child in psutil.Process(process.pid).children() if "jobs.sweep" in child.cmdline())
        sweeping.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=BOUND_S)
    assert "interrupted; finished runs are kept, the same command continues" in stdout
    (run,) = sweep.runs()
    assert (run["status"], run["error"]) == ("interrupted", "stopped by SIGTERM")


def test_a_rendered_script_with_mpirun_and_one_with_a_container_run(sweep: SweepOnSlurm) -> None:
    """The container's command is a stand-in: it keeps what it was told and runs the rest on the node itself."""
    site, stand_in = sweep.folder / "site.toml", sweep.folder / "apptainer"
    variables = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    paths = f"{sweep.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    pairs = "".join(f'{name} = "{value}"\n' for name, value in (variables | {"PATH": paths}).items())
    site.write_text(f"shared = true\n[environment]\n{pairs}")
    stand_in.write_text(
        f'#!/bin/bash\necho "$@" >> {sweep.folder}/told\nwhile [[ $1 != *.sif ]]; do shift; done\nshift\nexec "$@"\n'
    )
    stand_in.chmod(0o755)
    ours = [f"--site={site}", "--nodes=2"]
    theirs = ["--", *SMALL, f"--results-dir={sweep.folder}/data", "--strategy=horovod"]
    for number, more in enumerate((["--launcher=mpirun"], ["--container=my.sif", "--mpi=none", "--bind=/scratch"])):
        words = [sys.executable, "-m", "jobs.render", *ours, f"--output={sweep.folder}/{number}.out", *more, *theirs]
        rendered = sweep.slurm.call(*words)
        assert rendered.returncode == 0, rendered.stderr
        (sweep.folder / "job.sh").write_text(rendered.stdout)
        job = sweep.slurm.call("sbatch", "--parsable", str(sweep.folder / "job.sh"), env=clean_environment())
        state = sweep.slurm.wait_for(job.stdout.strip(), BOUND_S)
        assert state == ("COMPLETED", 0), (job.stderr, (sweep.folder / f"{number}.out").read_text())
    by_mpi, contained = sweep.runs()
    assert (by_mpi["status"], by_mpi["num_nodes"], by_mpi["actual_all_reduce"]) == ("ok", 2, "mpi")
    assert (contained["status"], contained["num_nodes"], contained["actual_all_reduce"]) == ("ok", 2, "ring")
    results = f"{sweep.folder}/data"
    told = (sweep.folder / "told").read_text().splitlines()
    start = f"exec --nv --bind={results} --bind=/scratch --pwd={results} {ROOT}/my.sif python -m bench.run"
    assert [line.startswith(start) for line in told] == [True, True]


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "sweeps").glob("*.toml")), ids=lambda path: path.stem)
def test_sbatch_takes_the_scripts_of_every_shipped_sweep(sweep: SweepOnSlurm, path: Path) -> None:
    hostile = "a \"b\" 'c' $(touch planted) \\ #d"
    words = [sys.executable, "-m", "jobs.sweep", str(path), "--dry-run", "--submit", f"--scripts={sweep.folder}"]
    words += [f"--extra-sbatch=--comment={hostile}", "--time=10", "--shared"]
    done = sweep.slurm.call(*words, env=clean_environment(), timeout=BOUND_S)
    assert done.returncode == 0, done.stderr
    scripts = ["#!/bin/bash\n" + text for text in done.stdout.split("#!/bin/bash\n")[1:]]
    assert scripts
    for text in scripts:
        file = sweep.folder / "job.sh"
        file.write_text(text)
        tested = sweep.slurm.call("sbatch", "--test-only", str(file), env=clean_environment(), timeout=BOUND_S)
        assert tested.returncode == 0, (tested.stderr, text)
    held = sweep.slurm.call("sbatch", "--parsable", "--hold", str(file), env=clean_environment(), timeout=BOUND_S)
    shown = sweep.slurm.call("scontrol", "-o", "show", "job", held.stdout.strip()).stdout
    sweep.slurm.end_jobs()
    assert f" Comment={hostile} " in shown
