"""Any environment is a cluster that makes sense, none, or a ClusterError of one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster import MAX_PORT, ROLES, ClusterEnv, ClusterError
from jobs.launchers import granted, read
from jobs.slurm import SlurmFault, nodes_of_allocation
from tests.fuzz import hostile_texts, is_one_line

TF_CONFIG = {
    "cluster": {"chief": ["a:1"], "worker": ["b:2", "a:3"], "ps": ["c:65535"]},
    "task": {"type": "worker", "index": 1},
}
SRUN = {
    "SLURM_JOB_ID": "41",
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_STEP_ID": "7",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_NODEID": "1",
    "SLURM_GTIDS": "2,3",
    "SLURM_STEP_NODELIST": "node[2,9-10]",
    "SLURM_STEP_RESV_PORTS": "12345-12349",
    "SLURM_DISTRIBUTION": "arbitrary",
    "SLURM_CPUS_ON_NODE": "64",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_RESTART_COUNT": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "3",
}
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
BATCH_SCRIPT = {"SLURM_JOB_ID": "41", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}
HOROVODRUN = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"}
REAL = (SRUN, OPEN_MPI, MPICH, BATCH_SCRIPT, HOROVODRUN, {"TF_CONFIG": json.dumps(TF_CONFIG)}, {"PMIX_RANK": "0"})
NAMES = sorted({name for env in REAL for name in env})


def replaced(inside: Any) -> st.SearchStrategy[Any]:
    """`inside` with some of what it holds replaced by what does not belong there."""
    whole = st.just(inside)
    strange = st.none() | st.booleans() | st.integers() | st.floats() | hostile_texts | st.just([]) | st.just({})
    if isinstance(inside, dict):
        parts = {key: replaced(value) for key, value in inside.items()}
        fewer = st.fixed_dictionaries({}, optional=parts)
        more = st.builds(lambda part, key, value: {**part, key: value}, fewer, hostile_texts, strange)
        return whole | st.fixed_dictionaries(parts) | st.fixed_dictionaries(parts) | fewer | more | strange
    if isinstance(inside, list):
        ports = hostile_texts.map(lambda port: f"a:{port}")
        return whole | st.lists(st.sampled_from(inside) | strange | ports, max_size=4)
    return whole | strange


env_values = hostile_texts | st.text(st.characters(codec=None, exclude_characters="\0"), max_size=6)
changes = st.dictionaries(st.sampled_from(NAMES), env_values | st.integers(-1, 9).map(str), max_size=3)
environments = st.builds(
    lambda first, second, gone, new: {k: v for k, v in {**first, **second, **new}.items() if k not in gone},
    st.sampled_from(REAL),
    st.sampled_from(({}, {}, *REAL)),
    st.sets(st.sampled_from(NAMES), max_size=2),
    changes | st.builds(lambda text: {"TF_CONFIG": text}, replaced(TF_CONFIG).map(json.dumps) | env_values),
)


def check(cluster: ClusterEnv) -> None:
    """What holds for every cluster, whoever describes it."""
    assert 0 <= cluster.rank < cluster.size
    assert 0 <= cluster.local_rank < cluster.local_size <= cluster.size
    assert len(cluster.here) == cluster.local_size
    assert cluster.here[cluster.local_rank] == cluster.task
    if cluster.local_ranks is not None:
        assert cluster.local_ranks[cluster.local_rank] == cluster.rank
        assert len(set(cluster.local_ranks)) == cluster.local_size
    assert cluster.num_nodes is None or cluster.num_nodes >= 1
    assert cluster.meeting_points or cluster.by_mpirun
    for host, _, port in (point.rpartition(":") for point in cluster.meeting_points):
        assert host.isprintable() and host
        assert 1 <= int(port) <= MAX_PORT
    met = cluster
    if cluster.task.address is None:
        met = cluster.with_addresses([f"h{rank // 2}:{rank % 2 + 1}" for rank in range(cluster.size)])
    again = read({"TF_CONFIG": met.tf_config()})
    assert again is not None
    assert (again.rank, again.tasks, again.local_ranks) == (met.rank, met.tasks, met.local_ranks)
    assert all(task.role in ROLES for task in again.tasks)


@given(environments)
def test_any_environment_is_an_answer_or_a_cluster_error(env: Mapping[str, str]) -> None:
    try:
        cluster = read(env)
    except ClusterError as error:
        assert is_one_line(error)
    else:
        if cluster is not None:
            check(cluster)


@given(environments)
def test_what_the_scheduler_granted_is_an_answer_or_one_line(env: Mapping[str, str]) -> None:
    try:
        assert all(count is None or count >= 0 for count in granted(env))
    except ClusterError as error:
        assert is_one_line(error)
    try:
        nodes = nodes_of_allocation(env)
        assert nodes is None or nodes >= 1
    except SlurmFault as error:
        assert is_one_line(error)
