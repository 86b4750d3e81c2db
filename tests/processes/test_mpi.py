"""Real mpirun, of the MPI in this environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest

from analysis.configurations import configurations
from analysis.load import Results
from analysis.options import Selection
from tests.benchmark import BOUND_S, ROOT, Benchmark, clean_environment

BIN = Path(sys.prefix) / "bin"
MPIRUN = shutil.which("mpirun", path=f"{BIN}:{os.environ['PATH']}")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(MPIRUN is None, reason="no mpirun: pip install -e '.[mpi]'"),
]
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def mpirun(benchmark: Benchmark, count: int, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(MPIRUN), "-np", str(count), "--oversubscribe", "--bind-to", "none", *benchmark.command(*flags)]
    env = clean_environment() | AS_ROOT | variables
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=BOUND_S, check=False)


@pytest.mark.parametrize(
    ("strategy", "flags", "count", "collective"),
    [
        ("horovod", [], 2, "mpi"),
        ("horovod", ["--controller=gloo"], 2, "ring"),
        ("mwms", [], 2, "ring"),
        ("ps", [], 3, None),
    ],
)
def test_ranks_of_mpirun_find_each_other(
    benchmark: Benchmark, strategy: str, flags: list[str], count: int, collective: str | None
) -> None:
    done = mpirun(benchmark, count, f"--strategy={strategy}", *flags)
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["num_processes"], run["num_nodes"]) == ("ok", count, 1)
    assert run["actual_all_reduce"] == collective or (collective is None and pd.isna(run["actual_all_reduce"]))
    assert done.stdout.count("Total img/sec") == 1
    ranks = benchmark.table("ranks")
    digests = {digest for row in ranks["weight_digests"] if row is not None for digest in row}
    assert len(digests) == (1 if collective else 0)
    if strategy == "ps":
        assert list(ranks.sort_values("rank")["role"]) == ["chief", "worker", "ps"]


def test_equal_runs_of_mpirun_are_pooled_and_a_knob_keeps_others_apart(benchmark: Benchmark) -> None:
    tuned = {"OMPI_MCA_coll_tuned_use_dynamic_rules": "1"}
    for variables in ({}, {}, tuned):
        done = mpirun(benchmark, 2, "--strategy=horovod", **variables)
        assert done.returncode == 0, done.stderr
    first, second, other = benchmark.table("runs").sort_values("started_at").to_dict("records")
    assert first["comparability_key"] == second["comparability_key"] != other["comparability_key"]
    assert (dict(first["exchange"]), dict(other["exchange"])) == ({}, tuned)
    assert first["provenance"]["mpi_library"] == f"Open MPI v{metadata.version('openmpi')}"
    pooled = configurations(Results(Selection(results_dir=(str(benchmark.results),))).runs)
    assert sorted(len(each.run_ids) for each in pooled) == [1, 2]


def rank_of(launcher: str, rank: int, size: int) -> dict[str, str]:
    names = {
        "Open MPI": ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
        "MPICH": ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
    }[launcher]
    local_size = {"Open MPI": "OMPI_COMM_WORLD_LOCAL_SIZE", "MPICH": "MPI_LOCALNRANKS"}[launcher]
    return dict(zip([*names, local_size], map(str, (rank, size, rank, size)), strict=True))


@pytest.mark.parametrize("strategy", ["mwms", "horovod"])
def test_mpirun_of_another_mpi_is_told_before_mpi_starts(benchmark: Benchmark, strategy: str) -> None:
    done = benchmark.run(f"--strategy={strategy}", env=rank_of("MPICH", 0, 2))
    assert done.returncode == 3
    assert "mpirun of MPICH does not fit the MPI library, Open MPI" in done.stderr
    assert "start with Open MPI's own mpirun, or with srun --mpi=pmix" in done.stderr
    assert benchmark.left_behind() == []


def test_a_process_that_believes_to_be_alone_is_an_error(benchmark: Benchmark) -> None:
    """The launcher says two, MPI says one: what a launcher of another build of the same MPI does."""
    found = {"PATH": f"{BIN}:{os.environ['PATH']}", "OPAL_PREFIX": sys.prefix}
    env = rank_of("Open MPI", 0, 2) | AS_ROOT | found
    done = benchmark.run("--strategy=mwms", env=env)
    assert done.returncode == 3
    assert "mpirun of Open MPI started 2 processes but Open MPI" in done.stderr
    assert "of mpi4py sees 1" in done.stderr
    assert benchmark.left_behind() == []
