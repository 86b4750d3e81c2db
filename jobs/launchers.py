"""What launchers tell the processes that they start, read from an environment mapping.

Pure: `read` takes the mapping, so that every launcher can be tested without it. A launcher that starts several
processes but is not understood is an error, never a run of N strangers that each believe to be alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jobs import node_list
from jobs.cluster import MAX_PORT, MPIRUN, OUR_PORTS, ROLES, SLURM, TF_CONFIG, ClusterEnv, ClusterError, Task

_MPI = {
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
"""mpirun of which library -> where it writes rank, size, local rank and local size. IBM's Spectrum MPI (LSF's jsrun)
writes what Open MPI does, Intel MPI what MPICH does, whatever batch system they run under."""

_STEP = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID")
"""What every task of srun has. A batch script has a SLURM_PROCID as well, but no step: it is nobody's rank."""

_PLACES = ("SLURM_STEP_NODELIST", "SLURM_NODEID", "SLURM_GTIDS")
"""What it has besides, by which tasks find each other."""

_FOREIGN = ("PMIX_RANK", "PMI_RANK")
"""What launchers set that are none of these."""

_CANDIDATES = 4
"""Ports to try, one after another: another job on the host may have the first."""


def read(env: Mapping[str, str]) -> ClusterEnv | None:
    """The cluster that `env` describes; None where nothing started this process as one of several.

    TF_CONFIG comes first, then mpirun (inside a Slurm job the rank that counts is MPI's), then a Slurm step. A step of
    one task is none: it may be somebody's interactive shell. Raises ClusterError for a malformed TF_CONFIG, for sources
    that contradict each other and for a launcher that is not understood.
    """
    cluster = _from_tf_config(env["TF_CONFIG"]) if env.get("TF_CONFIG") else None
    launched = _from_mpi(env) or _from_slurm(env)
    if cluster and launched and launched.size not in (1, cluster.size):
        raise ClusterError(
            f"{launched.source} started {launched.size} tasks but TF_CONFIG names {cluster.size}: "
            "unset TF_CONFIG, or start as many tasks as it names"
        )
    if not cluster and not launched and env.get("HOROVOD_SIZE", "1") != "1":
        raise ClusterError(
            f"horovodrun started {env['HOROVOD_SIZE']} processes, which it leaves no way to meet: use mpirun, srun "
            "or --num-workers instead"
        )
    foreign = next((name for name in _FOREIGN if name in env), None)
    if not cluster and not launched and foreign and "SLURM_STEP_ID" not in env and env.get("PMI_SIZE") != "1":
        raise ClusterError(
            f"{foreign} is set, so a launcher has started this process as one of several, but none that is known here: "
            "use srun, or mpirun of Open MPI or MPICH, or set TF_CONFIG"
        )
    return cluster or launched


def granted(env: Mapping[str, str]) -> tuple[int | None, int | None]:
    """(CPUs, GPUs) of this host that the scheduler gave to the job; each None where it says nothing."""
    return tuple(  # type: ignore[return-value]
        _count(env, name) if env.get(name) else None for name in ("SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE")
    )


def _from_mpi(env: Mapping[str, str]) -> ClusterEnv | None:
    for launcher, names in _MPI.items():
        if all(name in env for name in names):
            rank, size, local_rank, local_size = (_count(env, name) for name in names)
            source = f"{MPIRUN} of {launcher}"
            if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
                raise ClusterError(
                    f"{source} calls this rank {rank} of {size}, and {local_rank} of {local_size} on its host, which "
                    "cannot be"
                )
            tasks = (Task("worker"),) * size
            return ClusterEnv(source, rank, tasks, local_rank, local_size, num_nodes=1 if size == 1 else None)
    return None


def _from_slurm(env: Mapping[str, str]) -> ClusterEnv | None:
    if not all(name in env for name in _STEP) or env["SLURM_STEP_NUM_TASKS"] == "1":
        return None
    if missing := next((name for name in _PLACES if name not in env), None):
        raise ClusterError(
            f"{SLURM} has {env['SLURM_STEP_NUM_TASKS']} tasks, but {missing} is not set: let srun's variables through "
            "to the process"
        )
    rank, size, node = (_count(env, name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID"))
    hosts = node_list.expand(env["SLURM_STEP_NODELIST"])
    here = tuple(int(word) for word in re.findall(r"\d+", env["SLURM_GTIDS"]))
    if not (rank < size and rank in here and max(here) < size and node < len(hosts)):
        raise ClusterError(
            f"{SLURM} calls this rank {rank} of {size} on host {node} of {len(hosts)}, whose ranks are "
            f"{env['SLURM_GTIDS']}, which cannot be: parts of a heterogeneous job (srun ... : ...) are not supported"
        )
    # Rank 0 is on the first host of the list; only who wrote a host file may have put it elsewhere.
    first = hosts if env.get("SLURM_DISTRIBUTION") == "arbitrary" else hosts[:1]
    step = f"{env.get('SLURM_JOB_ID', '0')}.{env['SLURM_STEP_ID']}"
    return ClusterEnv(
        source=SLURM,
        rank=rank,
        tasks=(Task("worker"),) * size,
        local_rank=here.index(rank),
        local_size=len(here),
        local_ranks=here,
        num_nodes=len(hosts),
        nodes=tuple(hosts),
        node=hosts[node],
        meeting_points=tuple(f"{host}:{port}" for port in _ports(step, env) for host in first),
        job=step,
    )


def _ports(step: str, env: Mapping[str, str]) -> list[int]:
    """Those that Slurm reserved for the step, or else made of its number: jobs that share a host, and steps of one job,
    must not meet at one port."""
    if reserved := re.match(r"(\d+)(?:-(\d+))?", env.get("SLURM_STEP_RESV_PORTS", "")):
        first, last = int(reserved.group(1)), int(reserved.group(2) or reserved.group(1))
        return list(range(first, min(last, first + _CANDIDATES - 1) + 1))
    job, _, number = step.partition(".")
    start = int(job) * 131 + int(number) if job.isdigit() and number.isdigit() else 0
    return [OUR_PORTS[(start + turn * 1009) % len(OUR_PORTS)] for turn in range(_CANDIDATES)]


def _count(env: Mapping[str, str], name: str) -> int:
    if not (env[name].isascii() and env[name].isdigit()):
        raise ClusterError(f"{name} is {env[name]!r}: a launcher writes a whole number there")
    return int(env[name])


def _from_tf_config(text: str) -> ClusterEnv:
    try:
        spec = json.loads(text)
    except ValueError as error:
        raise ClusterError(f"TF_CONFIG is not JSON ({error}); it must look like {_EXAMPLE}") from None
    cluster, task = _member(spec, "cluster"), _member(spec, "task")
    tasks = [Task(role, address) for role in ROLES for address in _addresses(cluster, role)]
    if strangers := sorted(set(cluster) - set(ROLES)):
        raise ClusterError(f"TF_CONFIG: cluster has role {strangers[0]!r}; roles that train are {', '.join(ROLES)}")
    if not tasks:
        raise ClusterError(f"TF_CONFIG: cluster names no task; it must look like {_EXAMPLE}")
    addresses = [str(t.address) for t in tasks]
    if twice := sorted({a for a in addresses if addresses.count(a) > 1}):
        raise ClusterError(f"TF_CONFIG: cluster names {twice[0]} twice; every task needs its own host:port")
    role, index = task.get("type"), task.get("index")
    of_role = [rank for rank, t in enumerate(tasks) if t.role == role]
    if not of_role:
        raise ClusterError(f"TF_CONFIG: task.type is {role!r}, which the cluster does not name")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(of_role):
        raise ClusterError(f"TF_CONFIG: task.index is {index!r}; {role!r} has 0 to {len(of_role) - 1}")
    return ClusterEnv.of_tasks(TF_CONFIG, of_role[index], tuple(tasks))


_EXAMPLE = '{"cluster": {"worker": ["host1:port", "host2:port"]}, "task": {"type": "worker", "index": 0}}'


def _member(spec: Any, name: str) -> dict[str, Any]:
    value = spec.get(name) if isinstance(spec, dict) else None
    if not isinstance(value, dict):
        raise ClusterError(f"TF_CONFIG has no object {name!r}; it must look like {_EXAMPLE}")
    return value


def _addresses(cluster: dict[str, Any], role: str) -> list[str]:
    addresses = cluster.get(role, [])
    if not isinstance(addresses, list):
        raise ClusterError(f"TF_CONFIG: cluster.{role} is {addresses!r}; it must be a list of 'host:port'")
    for address in addresses:
        host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
        if not (host and port.isascii() and port.isdigit() and 0 < int(port) <= MAX_PORT):
            raise ClusterError(f"TF_CONFIG: cluster.{role} holds {address!r}; it must be 'host:port'")
    return addresses
