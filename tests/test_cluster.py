from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster import ClusterEnv, ClusterError

TWO = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


def test_nothing_started_this_process() -> None:
    assert ClusterEnv.from_env({}) is None
    assert ClusterEnv.from_env({"TF_CONFIG": ""}) is None


def test_ranks_follow_chief_then_workers_then_servers_in_listed_order() -> None:
    spec = {
        "cluster": {"ps": ["p:1"], "worker": ["z:1", "a:1", "z:2"], "chief": ["c:1"]},
        "task": {"type": "worker", "index": 2},
    }
    env = ClusterEnv.from_env({"TF_CONFIG": json.dumps(spec)})
    assert env is not None
    assert [task.address for task in env.tasks] == ["c:1", "z:1", "a:1", "z:2", "p:1"]
    assert (env.rank, env.size, env.num_nodes) == (3, 5, 4)
    assert (env.local_rank, env.local_size) == (1, 2)
    assert (env.task.host, env.task.port) == ("z", 2)
    assert ClusterEnv.from_env({"TF_CONFIG": env.tf_config()}) == env


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
        ClusterEnv.from_env({"TF_CONFIG": text})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "launcher"),
    [("SLURM_STEP_NUM_TASKS", "Slurm"), ("OMPI_COMM_WORLD_SIZE", "Open MPI"), ("PMI_SIZE", "MPICH")],
)
def test_several_processes_that_nobody_told_apart_are_an_error(variable: str, launcher: str) -> None:
    with pytest.raises(ClusterError, match=f"{launcher} started 4 tasks"):
        ClusterEnv.from_env({variable: "4"})
    assert ClusterEnv.from_env({variable: "1"}) is None


def test_sources_that_contradict_each_other_are_both_named() -> None:
    env = {"TF_CONFIG": json.dumps(TWO), "SLURM_STEP_NUM_TASKS": "4"}
    with pytest.raises(ClusterError, match=r"Slurm started 4 tasks.*TF_CONFIG names 2"):
        ClusterEnv.from_env(env)
    assert ClusterEnv.from_env(env | {"SLURM_STEP_NUM_TASKS": "2"}) is not None


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
        env = ClusterEnv.from_env({"TF_CONFIG": text})
    except ClusterError:
        return
    assert env is None or 0 <= env.rank < env.size
