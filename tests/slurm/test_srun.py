"""Strategies with several processes under real srun, on two nodes with their own names and addresses."""

from __future__ import annotations

import re
import subprocess
import sys

import pandas as pd
import pytest

from tests.benchmark import BOUND_S, Benchmark, clean_environment
from tests.slurm.cluster import SlurmCluster

pytestmark = pytest.mark.processes


def srun(slurm: SlurmCluster, benchmark: Benchmark, where: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    # Without --kill-on-bad-exit: every task comes to its own end, or the test to its bound.
    step = ["-N2", *where]
    return slurm.srun(*step, *benchmark.command(*flags), env=clean_environment(), timeout=BOUND_S)


@pytest.mark.parametrize(
    ("strategy", "where", "processes"),
    [
        ("mwms", ["--ntasks-per-node=1"], 2),
        ("ps", ["--ntasks-per-node=2"], 4),
        ("horovod", ["--ntasks-per-node=1", "--mpi=none"], 2),
        # Nodes with unequal numbers of tasks.
        ("horovod", ["-n3", "-mblock"], 3),
    ],
)
def test_tasks_of_a_step_find_each_other(
    slurm: SlurmCluster, benchmark: Benchmark, strategy: str, where: list[str], processes: int
) -> None:
    done = srun(slurm, benchmark, where, f"--strategy={strategy}")
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["num_processes"], run["num_nodes"]) == ("ok", processes, 2)
    synchronous = strategy != "ps"
    assert run["actual_all_reduce"] == "ring" if synchronous else pd.isna(run["actual_all_reduce"])
    ranks = benchmark.table("ranks").sort_values("rank")
    assert list(ranks["rank"]) == list(range(processes))
    assert set(ranks["hostname"]) == {"node1", "node2"}
    digests = {digest for row in ranks["weight_digests"] if row is not None for digest in row}
    assert len(digests) == int(synchronous)
    assert "by a Slurm step" in done.stdout


@pytest.mark.parametrize(("flavour", "code"), [("pmix", 0), ("pmi2", 3), ("none", 3)])
def test_horovod_over_mpi_runs_where_srun_fits_the_library(
    slurm: SlurmCluster, benchmark: Benchmark, flavour: str, code: int
) -> None:
    where = ["--ntasks-per-node=1", f"--mpi={flavour}"]
    done = srun(slurm, benchmark, where, "--strategy=horovod", "--controller=mpi")
    assert done.returncode == code, done.stderr
    if code:
        assert f"srun --mpi={flavour} does not fit the MPI library, Open MPI" in done.stderr
        assert "srun --mpi=pmix" in done.stderr
        assert not (benchmark.results / "runs").exists()
    else:
        assert benchmark.only_run()["actual_all_reduce"] == "mpi"


def test_a_strategy_of_one_process_says_what_to_type(slurm: SlurmCluster, benchmark: Benchmark) -> None:
    done = srun(slurm, benchmark, ["--ntasks-per-node=1"], "--strategy=mirrored")
    assert done.returncode == 2
    assert "strategy 'mirrored' runs in one process but a Slurm step has 2: start one process (srun -n 1" in done.stderr


def test_the_doctor_looks_at_every_node_and_tells_what_differs(slurm: SlurmCluster, benchmark: Benchmark) -> None:
    differs = 'test $SLURM_PROCID = 1 && export OMP_NUM_THREADS=1; exec "$@"'
    doctor = [sys.executable, "-m", "bench.doctor", f"--results-dir={benchmark.results}"]
    done = slurm.srun("-N2", "sh", "-c", differs, "sh", *doctor, env=clean_environment(), timeout=BOUND_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 on 2 host(s)" in done.stdout
    assert re.search(r"^warn  thread settings +rank 1 \(node2\): OMP_NUM_THREADS=1", done.stdout, re.M)
    for value, rank in (("none", "rank 0 (node1)"), ("1", "rank 1 (node2)")):
        assert re.search(rf"^  OMP_NUM_THREADS +{value}: {re.escape(rank)}$", done.stdout, re.M)
    assert re.search(r"^ok +clocks +node2 is 0\.\d ms", done.stdout, re.M)
    assert done.stdout.count("TensorFlow  ") == 1
