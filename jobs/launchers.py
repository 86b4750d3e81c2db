"""What launchers tell the processes that they start, read from an environment mapping.

Pure: `read` takes the mapping, so that every launcher can be tested without it. A launcher that starts several
processes but is not understood is an error, never a run of N strangers that each believe to be alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jobs import node_list
from jobs.cluster import (
    MAX_PORT,
    MPIRUN,
    OUR_PORTS,
    ROLES,
    SLURM,
    TF_CONFIG,
    ClusterEnv,
    ClusterError,
    Task,
    whole_number,
)

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

_MOST = 1 << 20
"""Processes, hosts or cores: more than any job of training has, and few enough to be listed."""

_MOST_JOBS = (1 << 32) - 1
"""What Slurm counts jobs and steps in."""

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
    if not cluster and not launched and (together := _count(env, "HOROVOD_SIZE", absent="1")) != 1:
        raise ClusterError(
            f"horovodrun started {together} processes, which it leaves no way to meet: use mpirun, srun or "
            "--num-workers instead"
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
    if not all(name in env for name in _STEP) or (size := _count(env, "SLURM_STEP_NUM_TASKS")) == 1:
        return None
    if missing := next((name for name in _PLACES if name not in env), None):
        raise ClusterError(
            f"{SLURM} has {size} tasks, but {missing} is not set: let srun's variables through to the process"
        )
    rank, node = _count(env, "SLURM_PROCID"), _count(env, "SLURM_NODEID")
    hosts = node_list.expand(env["SLURM_STEP_NODELIST"])
    words = env["SLURM_GTIDS"].split(",")
    here = tuple(dict.fromkeys(number for word in words if (number := whole_number(word, size - 1)) is not None))
    if not (rank in here and len(here) == len(words) and node < len(hosts)):
        raise ClusterError(
            f"{SLURM} calls this rank {rank} of {size} on host {node} of {len(hosts)}, whose ranks are "
            f"{env['SLURM_GTIDS'][:80]!r}, which cannot be: parts of a heterogeneous job (srun ... : ...) are not "
            "supported"
        )
    # Rank 0 is on the first host of the list; only who wrote a host file may have put it elsewhere.
    first = hosts if env.get("SLURM_DISTRIBUTION") == "arbitrary" else hosts[:1]
    job, step = _count(env, "SLURM_JOB_ID", most=_MOST_JOBS, absent="0"), _count(env, "SLURM_STEP_ID", most=_MOST_JOBS)
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
        meeting_points=tuple(f"{host}:{port}" for port in _ports(job, step, env) for host in first),
        job=f"{job}.{step}",
    )


def _ports(job: int, step: int, env: Mapping[str, str]) -> list[int]:
    """Those that Slurm reserved for the step, or else made of its number: jobs that share a host, and steps of one job,
    must not meet at one port."""
    if given := env.get("SLURM_STEP_RESV_PORTS"):
        word, _, end = given.partition(",")[0].partition("-")
        first, last = whole_number(word, MAX_PORT), whole_number(end or word, MAX_PORT)
        if not (first and last and first <= last):
            raise ClusterError(f"SLURM_STEP_RESV_PORTS is {given[:80]!r}: Slurm writes ports there, as in 12345-12349")
        return list(range(first, min(last, first + _CANDIDATES - 1) + 1))
    return [OUR_PORTS[(job * 131 + step + turn * 1009) % len(OUR_PORTS)] for turn in range(_CANDIDATES)]


def _count(env: Mapping[str, str], name: str, *, most: int = _MOST, absent: str | None = None) -> int:
    text = env[name] if absent is None else env.get(name, absent)
    number = whole_number(text, most)
    if number is None:
        raise ClusterError(f"{name} is {text[:80]!r}: a launcher writes a whole number there, of at most {most}")
    return number


def _from_tf_config(text: str) -> ClusterEnv:
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClusterError(f"TF_CONFIG is not JSON ({error}); it must look like {_EXAMPLE}") from None
    cluster, task = _member(spec, "cluster"), _member(spec, "task")
    tasks = [Task(role, address) for role in ROLES for address in _addresses(cluster, role)]
    if strangers := sorted(set(cluster) - set(ROLES)):
        raise ClusterError(f"TF_CONFIG: cluster has role {strangers[0]!r}; roles that train are {', '.join(ROLES)}")
    if not tasks:
        raise ClusterError(f"TF_CONFIG: cluster names no task; it must look like {_EXAMPLE}")
    if twice := sorted(address for address, count in Counter(str(t.address) for t in tasks).items() if count > 1):
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
        if not (host.isprintable() and host.split() == [host] and whole_number(port, MAX_PORT)):
            raise ClusterError(f"TF_CONFIG: cluster.{role} holds {address!r}; it must be 'host:port'")
    return addresses
