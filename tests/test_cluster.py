from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster import ClusterEnv, ClusterError

HOSTS = {"node[2,9-10]": ["node2", "node9", "node10"]}


def from_env(env: Mapping[str, str]) -> ClusterEnv | None:
    return ClusterEnv.from_env(env, HOSTS.__getitem__)


TWO = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


def test_nothing_started_this_process() -> None:
    assert from_env({}) is None
    assert from_env({"TF_CONFIG": ""}) is None


def test_ranks_follow_chief_then_workers_then_servers_in_listed_order() -> None:
    spec = {
        "cluster": {"ps": ["p:1"], "worker": ["z:1", "a:1", "z:2"], "chief": ["c:1"]},
        "task": {"type": "worker", "index": 2},
    }
    env = from_env({"TF_CONFIG": json.dumps(spec)})
    assert env is not None
    assert [task.address for task in env.tasks] == ["c:1", "z:1", "a:1", "z:2", "p:1"]
    assert (env.rank, env.size, env.num_nodes) == (3, 5, 4)
    assert (env.local_rank, env.local_size) == (1, 2)
    assert (env.task.host, env.task.port) == ("z", 2)
    assert from_env({"TF_CONFIG": env.tf_config()}) == env


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG is not JSON"),
        ("[]", "TF_CONFIG has no object 'cluster'"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG has no object 'task'"),
        ('{"cluster": {}, "task": {}}', "cluster names no task"),
        ('{"cluster": {"worker": "a:1"}, "task": {}}', "must be a list of 'host:port'"),
        ('{"cluster": {"worker": ["a"]}, "task": {}}', "cluster.worker holds 'a'"),
        ('{"cluster": {"worker": ["a:99999"]}, "task": {}}', "cluster.worker holds 'a:99999'"),
        ('{"cluster": {"worker": ["a:1", 7]}, "task": {}}', "cluster.worker holds 7"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {}}', "names a:1 twice"),
        ('{"cluster": {"worker": ["a:1"], "evaluator": ["b:1"]}, "task": {}}', "role 'evaluator'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "task.type is 'ps'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "task.index is 1"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": true}}', "task.index is True"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', "task.index is None"),
    ],
)
def test_a_malformed_tf_config_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ClusterError) as caught:
        from_env({"TF_CONFIG": text})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "node[2,9-10]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "7",
}


@pytest.mark.parametrize(("env", "name"), [(OPEN_MPI, "mpirun of Open MPI"), (MPICH, "mpirun of MPICH")])
def test_mpirun_says_who_is_who_and_mpi_where(env: dict[str, str], name: str) -> None:
    # Inside a Slurm job the rank that counts is MPI's.
    cluster = from_env(env | SLURM)
    assert cluster is not None
    assert (cluster.source, cluster.rank, cluster.size) == (name, 3, 4)
    assert (cluster.local_rank, cluster.local_size, cluster.meeting_point, cluster.num_nodes) == (1, 2, None, None)
    assert cluster.by_mpirun
    met = cluster.with_addresses(["a:1", "b:1", "a:2", "b:2"])
    assert (met.local_rank, met.local_size, met.num_nodes, met.meeting_point) == (1, 2, 2, "a:1")
    assert met.source == cluster.source


def test_a_slurm_step_says_who_is_who_and_where_to_meet() -> None:
    cluster = from_env(SLURM)
    assert cluster is not None
    assert (cluster.rank, cluster.size, cluster.local_rank, cluster.local_size) == (3, 5, 1, 2)
    assert cluster.num_nodes == 3
    assert cluster.meeting_point is not None
    host, _, port = cluster.meeting_point.rpartition(":")
    assert host == "node2"
    assert 20_000 <= int(port) < 32_000
    ports = {from_env(SLURM | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step}) for job in "12" for step in "012"}
    assert len({env.meeting_point for env in ports if env}) == 6
    reserved = from_env(SLURM | {"SLURM_STEP_RESV_PORTS": "12345-12349"})
    assert reserved is not None
    assert reserved.meeting_point == "node2:12345"
    last = from_env(SLURM | {"SLURM_NODEID": "2", "SLURM_LOCALID": "0", "SLURM_PROCID": "4"})
    assert last is not None
    assert last.local_size == 1


def test_a_batch_script_is_nobodys_rank() -> None:
    """It has a SLURM_PROCID and a SLURM_NTASKS, but no step."""
    assert from_env({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}) is None


def test_one_process_of_mpirun_is_a_cluster_of_one() -> None:
    one = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
    cluster = from_env(one | {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    assert cluster is not None
    assert (cluster.size, cluster.num_nodes) == (1, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"OMPI_COMM_WORLD_RANK": "4"}, "calls this rank 4 of 4"),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, "and 2 of 2 on its host"),
        ({"OMPI_COMM_WORLD_SIZE": "x"}, "OMPI_COMM_WORLD_SIZE is 'x'"),
    ],
)
def test_a_launcher_that_makes_no_sense_is_an_error(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        from_env(OPEN_MPI | changed)


def test_processes_of_horovodrun_are_not_run_as_strangers() -> None:
    with pytest.raises(ClusterError, match="horovodrun started 4 processes"):
        from_env({"HOROVOD_SIZE": "4"})
    assert from_env({"HOROVOD_SIZE": "1"}) is None


def test_sources_that_contradict_each_other_are_both_named() -> None:
    env = {"TF_CONFIG": json.dumps(TWO), **OPEN_MPI}
    with pytest.raises(ClusterError, match=r"mpirun of Open MPI started 4 tasks.*TF_CONFIG names 2"):
        from_env(env)
    agreed = from_env(env | {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
    assert agreed is not None
    assert agreed.source == "TF_CONFIG"


def test_processes_get_roles_by_rank() -> None:
    cluster = from_env(OPEN_MPI)
    assert cluster is not None
    cluster = cluster.with_roles(["chief", "worker", "worker", "ps"]).with_addresses(["a:1", "a:2", "a:3", "a:4"])
    spec = {"cluster": {"chief": ["a:1"], "worker": ["a:2", "a:3"], "ps": ["a:4"]}, "task": {"type": "ps", "index": 0}}
    assert json.loads(cluster.tf_config()) == spec


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["a:1", "worker", "b:70000"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["cluster", "task", "worker", "ps", "type", "index"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.text(max_size=40) | JSON.map(json.dumps))
def test_any_tf_config_is_an_answer_or_a_cluster_error(text: str) -> None:
    try:
        env = from_env({"TF_CONFIG": text})
    except ClusterError:
        return
    assert env is None or 0 <= env.rank < env.size
