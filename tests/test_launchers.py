from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster import ClusterError
from jobs.launchers import granted, read

TWO = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


def test_nothing_started_this_process() -> None:
    assert read({}) is None
    assert read({"TF_CONFIG": ""}) is None


def test_ranks_follow_chief_then_workers_then_servers_in_listed_order() -> None:
    spec = {
        "cluster": {"ps": ["p:1"], "worker": ["z:1", "a:1", "z:2"], "chief": ["c:1"]},
        "task": {"type": "worker", "index": 2},
    }
    env = read({"TF_CONFIG": json.dumps(spec)})
    assert env is not None
    assert [task.address for task in env.tasks] == ["c:1", "z:1", "a:1", "z:2", "p:1"]
    assert (env.rank, env.size, env.num_nodes) == (3, 5, 4)
    assert (env.local_rank, env.local_size) == (1, 2)
    assert (env.task.host, env.task.port) == ("z", 2)
    assert read({"TF_CONFIG": env.tf_config()}) == env


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
        ("[" * 100_000, "TF_CONFIG is not JSON"),
        (f'{{"cluster": {{"worker": ["a:{"9" * 5000}"]}}, "task": {{}}}}', "cluster.worker holds 'a:999"),
        ('{"cluster": {"worker": ["a\\nb:1", "a\\nb:1"]}, "task": {}}', r"cluster.worker holds 'a\nb:1'"),
        ('{"cluster": {"worker": ["\\ud800:1"]}, "task": {}}', r"cluster.worker holds '\ud800:1'"),
    ],
)
def test_a_malformed_tf_config_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ClusterError) as caught:
        read({"TF_CONFIG": text})
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
    "SLURM_NODEID": "1",
    "SLURM_GTIDS": "2,3",
    "SLURM_STEP_NODELIST": "node[2,9-10]",
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "7",
}


@pytest.mark.parametrize(("env", "name"), [(OPEN_MPI, "mpirun of Open MPI"), (MPICH, "mpirun of MPICH")])
def test_mpirun_says_who_is_who_and_mpi_where(env: dict[str, str], name: str) -> None:
    # Inside a Slurm job the rank that counts is MPI's.
    cluster = read(env | SLURM)
    assert cluster is not None
    assert (cluster.source, cluster.rank, cluster.size) == (name, 3, 4)
    assert (cluster.local_rank, cluster.local_size, cluster.meeting_points, cluster.num_nodes) == (1, 2, (), None)
    assert cluster.by_mpirun
    met = cluster.with_addresses(["a:1", "b:1", "a:2", "b:2"])
    assert (met.local_rank, met.local_size, met.num_nodes, met.meeting_points) == (1, 2, 2, ("a:1",))
    assert met.source == cluster.source


def test_a_slurm_step_says_who_is_who_and_where_to_meet() -> None:
    cluster = read(SLURM)
    assert cluster is not None
    assert (cluster.rank, cluster.size, cluster.local_rank, cluster.local_size) == (3, 5, 1, 2)
    assert (cluster.num_nodes, cluster.local_ranks, cluster.job) == (3, (2, 3), "41.7")
    hosts, ports = zip(*(point.rpartition(":")[::2] for point in cluster.meeting_points), strict=True)
    assert set(hosts) == {"node2"}
    assert len(set(ports)) == 4
    assert all(20_000 <= int(port) < 32_000 for port in ports)
    others = {read(SLURM | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step}) for job in "12" for step in "012"}
    assert len({env.meeting_points[0] for env in others if env}) == 6


@pytest.mark.parametrize(
    ("reserved", "ports"),
    [("12345-12349", [12345, 12346, 12347, 12348]), ("12345-12346", [12345, 12346]), ("12345", [12345])],
)
def test_ports_that_slurm_reserved_are_used(reserved: str, ports: list[int]) -> None:
    cluster = read(SLURM | {"SLURM_STEP_RESV_PORTS": reserved})
    assert cluster is not None
    assert cluster.meeting_points == tuple(f"node2:{port}" for port in ports)


def test_ranks_that_slurm_dealt_out_are_where_it_says() -> None:
    """-m cyclic: every other rank is here; -m arbitrary: rank 0 may be on any host."""
    cyclic = read(SLURM | {"SLURM_GTIDS": "1,3", "SLURM_DISTRIBUTION": "cyclic"})
    assert cyclic is not None
    assert (cyclic.local_rank, cyclic.local_ranks) == (1, (1, 3))
    cyclic = cyclic.with_roles(["chief", "worker", "worker", "ps", "ps"])
    assert [task.role for task in cyclic.here] == ["worker", "ps"]
    arbitrary = read(SLURM | {"SLURM_DISTRIBUTION": "arbitrary"})
    assert arbitrary is not None
    assert [point.partition(":")[0] for point in arbitrary.meeting_points[:3]] == ["node2", "node9", "node10"]


def test_a_step_of_one_task_may_be_somebodys_shell() -> None:
    assert read(SLURM | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_GTIDS": "0"}) is None


def test_what_the_job_was_granted_here_is_read() -> None:
    assert granted({}) == (None, None)
    assert granted({"SLURM_CPUS_ON_NODE": "64", "SLURM_GPUS_ON_NODE": "8"}) == (64, 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"SLURM_GTIDS": "0,1"}, "calls this rank 3 of 5 on host 1 of 3, whose ranks are '0,1', which cannot be"),
        ({"SLURM_STEP_NUM_TASKS": "3"}, "parts of a heterogeneous job"),
        ({"SLURM_NODEID": "3"}, "on host 3 of 3"),
        ({"SLURM_PROCID": "-1"}, "SLURM_PROCID is '-1'"),
        ({"SLURM_STEP_NODELIST": "node[2"}, "the node list 'node[2' is malformed"),
        ({"SLURM_STEP_NUM_TASKS": "9" * 30}, "SLURM_STEP_NUM_TASKS is '9999"),  # so many tasks fit no memory
        ({"SLURM_STEP_NUM_TASKS": "5\n"}, r"SLURM_STEP_NUM_TASKS is '5\n'"),
        ({"SLURM_GTIDS": "9" * 5000}, "whose ranks are '999"),  # `int` refuses so many digits
        ({"SLURM_GTIDS": "٣,3"}, "whose ranks are '٣,3'"),
        ({"SLURM_GTIDS": "3,3"}, "whose ranks are '3,3'"),
        ({"SLURM_JOB_ID": "²"}, "SLURM_JOB_ID is '²'"),  # `isdigit` says yes, `int` no
        ({"SLURM_STEP_RESV_PORTS": "12349-12345"}, "SLURM_STEP_RESV_PORTS is '12349-12345'"),
        ({"SLURM_STEP_RESV_PORTS": "0-70000"}, "SLURM_STEP_RESV_PORTS is '0-70000'"),
        ({"SLURM_STEP_RESV_PORTS": "9" * 5000}, "SLURM_STEP_RESV_PORTS is '999"),
    ],
)
def test_a_step_that_makes_no_sense_is_an_error(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ClusterError) as caught:
        read(SLURM | changed)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_task_of_thousands_knows_its_place() -> None:
    env = SLURM | {
        "SLURM_STEP_NODELIST": "rack[1-8]n[001-512]",
        "SLURM_STEP_NUM_TASKS": "4096",
        "SLURM_PROCID": "4095",
        "SLURM_NODEID": "4095",
        "SLURM_GTIDS": "4095",
    }
    cluster = read(env)
    assert cluster is not None
    assert (cluster.num_nodes, cluster.meeting_points[0].partition(":")[0]) == (4096, "rack1n001")
    met = cluster.with_addresses([f"host{rank // 2}:{20_000 + rank % 2}" for rank in range(4096)])
    assert (met.local_rank, met.local_size, met.num_nodes) == (1, 2, 2048)
    assert len(json.loads(met.tf_config())["cluster"]["worker"]) == 4096


def test_a_batch_script_is_nobodys_rank() -> None:
    """It has a SLURM_PROCID and a SLURM_NTASKS, but no step."""
    assert read({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}) is None


def test_one_process_of_mpirun_is_a_cluster_of_one() -> None:
    one = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
    cluster = read(one | {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    assert cluster is not None
    assert (cluster.size, cluster.num_nodes) == (1, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"OMPI_COMM_WORLD_RANK": "4"}, "calls this rank 4 of 4"),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, "and 2 of 2 on its host"),
        ({"OMPI_COMM_WORLD_SIZE": "x"}, "OMPI_COMM_WORLD_SIZE is 'x'"),
        ({"OMPI_COMM_WORLD_SIZE": "1000000000000"}, "OMPI_COMM_WORLD_SIZE is '1000000000000'"),
    ],
)
def test_a_launcher_that_makes_no_sense_is_an_error(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        read(OPEN_MPI | changed)


def test_processes_of_horovodrun_are_not_run_as_strangers() -> None:
    with pytest.raises(ClusterError, match="horovodrun started 4 processes"):
        read({"HOROVOD_SIZE": "4"})
    assert read({"HOROVOD_SIZE": "1"}) is None
    with pytest.raises(ClusterError, match=r"HOROVOD_SIZE is '4\\n'"):
        read({"HOROVOD_SIZE": "4\n"})


@pytest.mark.parametrize("env", [{"PMIX_RANK": "3"}, {"PMI_RANK": "3", "PMI_SIZE": "4"}])
def test_processes_of_an_unknown_launcher_are_not_run_as_strangers(env: dict[str, str]) -> None:
    with pytest.raises(ClusterError, match=r"_RANK is set, so a launcher has started this process as one of several"):
        read(env)
    assert read({"PMI_RANK": "0", "PMI_SIZE": "1"}) is None
    one = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"}
    assert read(env | one) is None


@pytest.mark.parametrize("missing", ["SLURM_STEP_NODELIST", "SLURM_NODEID", "SLURM_GTIDS"])
def test_a_task_that_lacks_a_variable_of_srun_is_not_run_as_a_stranger(missing: str) -> None:
    with pytest.raises(ClusterError, match=f"a Slurm step has 5 tasks, but {missing} is not set"):
        read({name: value for name, value in SLURM.items() if name != missing})


def test_sources_that_contradict_each_other_are_both_named() -> None:
    env = {"TF_CONFIG": json.dumps(TWO), **OPEN_MPI}
    with pytest.raises(ClusterError, match=r"mpirun of Open MPI started 4 tasks.*TF_CONFIG names 2"):
        read(env)
    agreed = read(env | {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
    assert agreed is not None
    assert agreed.source == "TF_CONFIG"


def test_processes_get_roles_by_rank() -> None:
    cluster = read(OPEN_MPI)
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
        env = read({"TF_CONFIG": text})
    except ClusterError:
        return
    assert env is None or 0 <= env.rank < env.size
