"""Strategies with several processes under real srun, on two nodes with their own names and addresses."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.benchmark import BOUND_S, ROOT, Benchmark, clean_environment
from tests.slurm.cluster import SlurmCluster

pytestmark = pytest.mark.processes


def srun(slurm: SlurmCluster, benchmark: Benchmark, where: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    # Without --kill-on-bad-exit: every task comes to its own end, or the test to its bound.
    return slurm.srun(*where, *benchmark.command(*flags), env=clean_environment(), timeout=BOUND_S)


@pytest.mark.parametrize(
    ("strategy", "where", "processes"),
    [
        ("mwms", ["-N4", "--ntasks-per-node=1"], 4),
        ("mwms", ["-N1", "--ntasks-per-node=2"], 2),
        ("independent", ["-N2", "--ntasks-per-node=1"], 2),
        ("ps", ["-N2", "--ntasks-per-node=2"], 4),
        ("horovod", ["-N2", "--ntasks-per-node=2", "--mpi=none"], 4),
        # Nodes with unequal numbers of tasks, and in another order than their names.
        ("horovod", ["-w", "node11,node2", "-n3", "-mcyclic"], 3),
        ("mwms", ["-w", "node11,node2", "-n3", "-mblock"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_tasks_of_a_step_find_each_other(
    slurm: SlurmCluster, benchmark: Benchmark, strategy: str, where: list[str], processes: int
) -> None:
    done = srun(slurm, benchmark, where, f"--strategy={strategy}")
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    ranks = benchmark.table("ranks").sort_values("rank")
    assert (run["status"], run["num_processes"], run["num_nodes"]) == ("ok", processes, ranks["hostname"].nunique())
    assert list(ranks["rank"]) == list(range(processes))
    expected = {"-N4": 4, "-N2": 2, "-N1": 1, "-w": 2}[where[0]]
    assert ranks["hostname"].nunique() == expected
    if strategy in ("mwms", "horovod"):
        assert run["actual_all_reduce"] == "ring"
        assert len({digest for row in ranks["weight_digests"] for digest in row}) == 1
    else:
        assert pd.isna(run["actual_all_reduce"])
    assert "by a Slurm step" in done.stdout


@pytest.mark.parametrize("strategy", ["single", "mirrored", "central"])
def test_a_strategy_of_one_process_runs_in_one_task(slurm: SlurmCluster, benchmark: Benchmark, strategy: str) -> None:
    devices = [] if strategy == "single" else ["--devices-per-worker=2"]
    done = srun(slurm, benchmark, ["-n1", "-w", "node4"], f"--strategy={strategy}", *devices)
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["num_processes"], run["num_nodes"]) == ("ok", 1, 1)
    assert list(benchmark.table("ranks")["hostname"]) == ["node4"]


def test_a_task_alone_starts_workers_itself(slurm: SlurmCluster, benchmark: Benchmark) -> None:
    """As in the shell that `srun --pty bash`, and on many sites `salloc`, opens on a node."""
    done = srun(slurm, benchmark, ["-n1"], "--strategy=mwms", "--num-workers=2")
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["num_processes"], run["num_nodes"]) == ("ok", 2, 1)


def test_a_batch_script_and_an_allocation_run_steps(slurm: SlurmCluster, benchmark: Benchmark) -> None:
    """A batch script's own process is nobody's rank: it starts workers itself, and steps start theirs."""
    words = shlex.join(benchmark.command("--strategy=mwms"))
    script = f"set -e\n{words} --num-workers=2\nsrun --ntasks-per-node=1 {words}\n"
    done = slurm.sbatch("--nodes=2", "--ntasks-per-node=1", script=script, env=clean_environment(), timeout=BOUND_S)
    assert done.returncode == 0, done.stdout
    done = slurm.call("salloc", "-N2", "sh", "-c", f"srun -N2 {words}", env=clean_environment(), timeout=BOUND_S)
    assert done.returncode == 0, done.stderr
    runs = benchmark.table("runs").sort_values("started_at")
    assert list(runs["status"]) == ["ok"] * 3
    assert list(runs["num_processes"]) == [2, 2, 2]
    assert list(runs["num_nodes"]) == [1, 2, 2]


@pytest.mark.parametrize(("flavour", "code"), [("pmix", 0), ("pmi2", 3), ("none", 3)])
def test_horovod_over_mpi_runs_where_srun_fits_the_library(
    slurm: SlurmCluster, benchmark: Benchmark, flavour: str, code: int
) -> None:
    where = ["-N2", "--ntasks-per-node=1", f"--mpi={flavour}"]
    done = srun(slurm, benchmark, where, "--strategy=horovod", "--controller=mpi")
    assert done.returncode == code, done.stderr
    if code:
        assert f"srun --mpi={flavour} does not fit the MPI library, Open MPI" in done.stderr
        assert "srun --mpi=pmix" in done.stderr
        assert not (benchmark.results / "runs").exists()
    else:
        assert benchmark.only_run()["actual_all_reduce"] == "mpi"


def test_mpirun_inside_an_allocation_says_who_is_who(slurm: SlurmCluster, benchmark: Benchmark) -> None:
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    mpirun = [str(Path(sys.executable).with_name("mpirun")), "-np", "2", "--map-by", "node"]
    words = [
        "salloc",
        "-N2",
        "-w",
        "node1,node2",
        "--ntasks-per-node=1",
        *mpirun,
        *benchmark.command("--strategy=horovod"),
    ]
    done = slurm.call(*words, env=clean_environment() | root, timeout=BOUND_S)
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["num_nodes"], run["actual_all_reduce"]) == ("ok", 2, "mpi")
    assert set(benchmark.table("ranks")["hostname"]) == {"node1", "node2"}


@pytest.mark.parametrize(
    ("signum", "status", "said_of_it"),
    [
        (signal.SIGKILL, "lost", "was killed by SIGKILL"),
        (
            signal.SIGSTOP,
            "timeout",
            "rank 1 (node2) is stopped (SIGSTOP, or a debugger) and did not go on",
        ),
    ],
)
def test_a_dead_rank_is_recorded_before_srun_kills_the_others(
    slurm: SlurmCluster, benchmark: Benchmark, signum: signal.Signals, status: str, said_of_it: str
) -> None:
    """--kill-on-bad-exit, as in all job scripts, ends every other task as soon as one has failed."""
    flags = ("--strategy=mwms", "--num-iters=1000000", "--step-timeout=4")
    words = ["srun", "-w", "node1,node2", "--kill-on-bad-exit=1", *benchmark.command(*flags)]
    with subprocess.Popen(words, env=clean_environment() | slurm.env, cwd=ROOT, stderr=subprocess.PIPE) as step:
        try:
            deadline = time.monotonic() + BOUND_S
            said = ""
            while '"iters"' not in said:
                assert time.monotonic() < deadline
                time.sleep(0.1)
                said = "".join(shard.read_text() for shard in benchmark.results.glob(".shards/*/rank-00001.jsonl"))
            os.kill(int(re.findall(r'"pid":(\d+)', said)[0]), signum)
            step.communicate(timeout=BOUND_S)
        finally:
            step.kill()
    run = benchmark.only_run()
    assert (run["status"], run["failed_rank"], run["num_nodes"]) == (status, 1, 2)
    assert said_of_it in run["error"]
    assert set(benchmark.table("iters")["rank"]) == {0, 1}


def test_a_strategy_of_one_process_says_what_to_type(slurm: SlurmCluster, benchmark: Benchmark) -> None:
    done = srun(slurm, benchmark, ["-N2"], "--strategy=mirrored")
    assert done.returncode == 2
    assert "strategy 'mirrored' runs in one process but a Slurm step has 2: start one process (srun -n 1" in done.stderr


def test_the_doctor_looks_at_every_node_and_tells_what_differs(slurm: SlurmCluster, benchmark: Benchmark) -> None:
    differs = 'test $SLURM_PROCID = 1 && export OMP_NUM_THREADS=1; exec "$@"'
    doctor = [sys.executable, "-m", "bench.doctor", f"--results-dir={benchmark.results}"]
    # By name: a job that is still ending may hold the first nodes.
    nodes = ("-w", "node1,node2")
    done = slurm.srun(*nodes, "-N2", "sh", "-c", differs, "sh", *doctor, env=clean_environment(), timeout=BOUND_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 on 2 host(s)" in done.stdout
    assert re.search(r"^warn  thread settings +rank 1 \(node2\): OMP_NUM_THREADS=1", done.stdout, re.M)
    for value, rank in (("none", "rank 0 (node1)"), ("1", "rank 1 (node2)")):
        assert re.search(rf"^  OMP_NUM_THREADS +{value}: {re.escape(rank)}$", done.stdout, re.M)
    assert re.search(r"^ok +clocks +node2 is 0\.\d ms", done.stdout, re.M)
    assert done.stdout.count("TensorFlow  ") == 1
