"""Two tasks whom nobody has told which cores are theirs: a batch system without Slurm's variables, or a container."""

from __future__ import annotations

import os

import pytest

from jobs.cores import physical_cores
from jobs.launch import free_ports
from tests.benchmark import BOUND_S, Benchmark
from tests.processes.test_endings import tf_config

pytestmark = pytest.mark.processes

CPUS = sorted(os.sched_getaffinity(0))
CORES = physical_cores(CPUS)
BOUND = """
import json, os
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
os.cpu_count = lambda: {installed}
os.sched_setaffinity(0, {cpus}[index])
"""


@pytest.mark.parametrize("alike", [True, False], ids=["the same", "its own"])
@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_the_record_says_which_cores_each_task_had(benchmark: Benchmark, alike: bool) -> None:
    bound = [CPUS, CPUS] if alike else [CORES[0], CORES[1]]
    patch = BOUND.format(installed=len(CPUS) + 1, cpus=[set(cpus) for cpus in bound])
    ports = free_ports(2)
    tasks = [benchmark.start("--strategy=mwms", env=tf_config(ports, index), patch=patch) for index in (0, 1)]
    for task in tasks:
        _, stderr = task.communicate(timeout=BOUND_S)
        assert task.returncode == 0, stderr
    run, ranks = benchmark.only_run(), benchmark.table("ranks").sort_values("rank")
    first, second = ({*cores} for cores in ranks["cores"])
    assert not first & second
    assert len(physical_cores(sorted(first))) == len(physical_cores(sorted(second)))
    assert run["cores_per_device"] == (len(CORES) // 2 if alike else 1)
    assert [run["intra_op_threads"], *ranks["intra_op_threads"]] == [len(first)] * 3
