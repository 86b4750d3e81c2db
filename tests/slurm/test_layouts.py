"""Who is who, where Slurm puts tasks in unusual places; and which GPUs are whose."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.node_list import expand
from tests.benchmark import BOUND_S, clean_environment
from tests.slurm.cluster import SlurmCluster

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    "layout",
    [
        ["-N2", "--ntasks-per-node=2"],
        ["-N3", "-n5", "-mblock"],
        ["-N3", "-n5", "-mcyclic"],
        ["-N2", "-n4", "-mplane=1"],
        ["-w", "node11,node2,node9"],
        ["-w", "node11,node2,node9", "-n5", "-mcyclic"],
        ["-N12"],
        ["-N1", "-n2"],
        ["-n3", "-marbitrary"],
    ],
    ids=" ".join,
)
def test_every_rank_knows_itself_and_all_others(slurm: SlurmCluster, tmp_path: Path, layout: list[str]) -> None:
    env = clean_environment()
    if "-marbitrary" in layout:
        (tmp_path / "hosts").write_text("node3\nnode1\nnode3\n")
        env["SLURM_HOSTFILE"] = str(tmp_path / "hosts")
    done = slurm.srun(*layout, sys.executable, "-m", "tests.slurm.whoami", env=env, timeout=BOUND_S)
    assert done.returncode == 0, done.stderr
    ranks = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda said: said["rank"])
    hosts = [said["host"] for said in ranks]  # of each rank, as its own system names it
    assert [said["rank"] for said in ranks] == list(range(len(ranks))) != [0]
    for rank, said in enumerate(ranks):
        assert [address.partition(":")[0] for address in said["addresses"]] == hosts
        assert len(set(said["addresses"])) == len(ranks)
        here = [other for other, host in enumerate(hosts) if host == hosts[rank]]
        assert said["place"] == said["foretold"] == [here.index(rank), len(here), here, len(set(hosts))]
    if layout == ["-w", "node11,node2,node9"]:
        assert hosts == ["node2", "node9", "node11"]
    if "-marbitrary" in layout:
        assert hosts == ["node3", "node1", "node3"]


@pytest.mark.parametrize(
    ("layout", "gpus"),
    [
        # One task a node: all its GPUs.
        (["-N2", "--ntasks-per-node=1", "--gpus-per-node=2"], ["0,1", "0,1"]),
        (["-N2", "--ntasks-per-node=1", "--gpus-per-node=1"], ["0", "0"]),
        # One task a GPU, by Slurm or, where every task sees all GPUs of its node, by its place there.
        (["-N2", "--ntasks-per-node=2", "--gpus-per-task=1"], ["0", "1", "0", "1"]),
        (["-N2", "--ntasks-per-node=2", "--gpus-per-node=2"], ["0", "1", "0", "1"]),
        (["-N2", "-n4", "-mplane=1", "--gpus-per-node=2"], ["0", "0", "1", "1"]),
        (["-N1", "-n2", "--gres=gpu:2"], ["0", "1"]),
    ],
    ids=" ".join,
)
def test_every_gpu_has_one_task(slurm: SlurmCluster, layout: list[str], gpus: list[str]) -> None:
    env = {name: value for name, value in clean_environment().items() if name != "CUDA_VISIBLE_DEVICES"}
    program = [sys.executable, "-m", "tests.slurm.with_emulated_gpus", "2", "bench.run", "--strategy=mwms", "--dry-run"]
    done = slurm.srun("--label", *layout, *program, env=env, timeout=BOUND_S)
    assert done.returncode == 0, done.stderr
    used = sorted(re.findall(r"^ *(\d+): +CUDA_VISIBLE_DEVICES=([-\w,]+)$", done.stdout, re.M))
    assert [value.replace("GPU-", "") for _, value in used] == gpus
    sampled = re.findall(r"^ *\d+: +TRAINSCALE_SAMPLED_GPUS=([-\w,]+)$", done.stdout, re.M)
    each = sorted(uuid for _, value in used for uuid in value.split(","))
    assert sorted(uuid for value in sampled for uuid in value.split(",")) == each
    assert {int(count) for count in re.findall(r"num_devices: (\d+)", done.stdout)} == {len(each)}


Entry = tuple[str, list[tuple[int, int]], str]
NAMES = st.lists(
    st.tuples(
        st.sampled_from(["node", "gpu-", "r1n"]),
        st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3)), min_size=1, max_size=3),
        st.sampled_from(["", "0", "00"]),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAMES)
def test_node_lists_mean_what_slurm_means(slurm: SlurmCluster, names: list[Entry]) -> None:
    entries = []
    for prefix, ranges, zeros in names:
        parts = [f"{zeros}{low}-{zeros}{low + more}" if more else f"{zeros}{low}" for low, more in ranges]
        entries.append(f"{prefix}[{','.join(parts)}]")
    text = ",".join(entries)
    words = ["scontrol", "show", "hostnames", text]
    done = subprocess.run(words, env=clean_environment() | slurm.env, capture_output=True, text=True, check=True)
    assert expand(text) == done.stdout.split()
