"""Who am I: the rank of this process and the addresses of all, read from an environment mapping.

Pure: `from_env` takes the mapping, so that every launcher can be tested without it. A launcher that starts several
processes but is not understood is an error, never a run of N strangers that each believe to be alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

ROLES = ("chief", "worker", "ps")
"""The roles of TF_CONFIG that take part in training, in rank order."""

LAUNCHER_PID = "TRAINSCALE_LAUNCHER_PID"
"""Set for the processes that a launcher of ours starts: they train, and do not launch again."""

STARTED_NS = "TRAINSCALE_STARTED_NS"
"""Set with it: Unix time in ns at which the process was started; the kernel's own record is good to a second."""

NODE_GPUS = "TRAINSCALE_NODE_GPUS"
"""Set for the first worker of a node: UUIDs of all GPUs that the node's workers use, for it to sample."""

_MAX_PORT = 65535

_MPI_LAUNCHERS = {
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
"""mpirun of which library -> where it writes rank, size, local rank and local size."""

_SLURM_STEP = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_STEP_ID")
"""What every task of srun has. A batch script has a SLURM_PROCID as well, but no step: it is nobody's rank."""

_TF_CONFIG, _MPIRUN, _SLURM = "TF_CONFIG", "mpirun", "a Slurm step"

_FIRST_PORT, _NUM_PORTS = 20_000, 12_000
"""Where the tasks of a Slurm step meet: below the ports that systems give to outgoing connections."""


class ClusterError(Exception):
    """The environment describes no usable cluster; one line with the remedy."""

    exit_code = 2


@dataclass(frozen=True)
class Task:
    """One process of the job: its role and the `host:port` that others reach it at, None until they have met."""

    role: str
    address: str | None = None

    @property
    def host(self) -> str:
        return self._parts[0]

    @property
    def port(self) -> int:
        return int(self._parts[2])

    @property
    def _parts(self) -> tuple[str, str, str]:
        assert self.address is not None, "the processes have not met yet"
        return self.address.rpartition(":")


@dataclass(frozen=True)
class ClusterEnv:
    """The job as this process sees it: `tasks` in rank order, `rank` into them, `source` for messages."""

    source: str
    rank: int
    tasks: tuple[Task, ...]
    local_rank: int
    """Which of this host's processes this is."""
    local_size: int
    """How many processes this host runs."""
    meeting_point: str | None
    """`host:port` at which rank 0 waits for the others; None where MPI tells it."""
    num_nodes: int | None
    """Hosts; None until the processes have met."""

    @property
    def size(self) -> int:
        return len(self.tasks)

    @property
    def task(self) -> Task:
        return self.tasks[self.rank]

    @property
    def roles_are_named(self) -> bool:
        """Whoever started the processes has said which of them does what."""
        return self.source == _TF_CONFIG

    @property
    def by_mpirun(self) -> bool:
        """mpirun started the processes, so that all of them can use MPI."""
        return self.source.startswith(_MPIRUN)

    @property
    def may_use_mpi(self) -> bool:
        """The processes can use MPI if their launcher fits its library."""
        return self.by_mpirun or self.source == _SLURM

    @property
    def here(self) -> tuple[Task, ...]:
        """The tasks of this host, as far as that is known: before the processes have met, this one stands for each."""
        if any(task.address is None for task in self.tasks):
            return (self.task,) * self.local_size
        return tuple(task for task in self.tasks if task.host == self.task.host)

    def with_roles(self, roles: Sequence[str]) -> ClusterEnv:
        """The same processes in other roles, in rank order."""
        tasks = tuple(replace(task, role=role) for task, role in zip(self.tasks, roles, strict=True))
        return replace(self, tasks=tasks)

    def with_addresses(self, addresses: Sequence[str]) -> ClusterEnv:
        """The same processes, now that their addresses are known, in rank order."""
        tasks = tuple(replace(task, address=address) for task, address in zip(self.tasks, addresses, strict=True))
        return ClusterEnv.of_tasks(self.source, self.rank, tasks)

    def tf_config(self) -> str:
        """The TF_CONFIG text that says the same."""
        cluster = {role: [t.address for t in self.tasks if t.role == role] for role in ROLES}
        index = sum(task.role == self.task.role for task in self.tasks[: self.rank])
        return json.dumps(
            {
                "cluster": {role: addresses for role, addresses in cluster.items() if addresses},
                "task": {"type": self.task.role, "index": index},
            }
        )

    @classmethod
    def of_tasks(cls, source: str, rank: int, tasks: tuple[Task, ...]) -> ClusterEnv:
        """A cluster whose addresses are all known."""
        host = tasks[rank].host
        return cls(
            source=source,
            rank=rank,
            tasks=tasks,
            local_rank=sum(task.host == host for task in tasks[:rank]),
            local_size=sum(task.host == host for task in tasks),
            meeting_point=tasks[0].address,
            num_nodes=len({task.host for task in tasks}),
        )

    @classmethod
    def alone(cls) -> ClusterEnv:
        """One process, no cluster."""
        return cls.of_tasks("no cluster", 0, (Task("worker", "localhost:0"),))

    @classmethod
    def local(cls, rank: int, ports: Sequence[int], roles: Sequence[str]) -> ClusterEnv:
        """Process `rank` of as many as `ports`, all on this machine's loopback address."""
        tasks = tuple(Task(role, f"127.0.0.1:{port}") for role, port in zip(roles, ports, strict=True))
        return cls.of_tasks("the local launcher", rank, tasks)

    @classmethod
    def from_env(cls, env: Mapping[str, str], expand_hosts: Callable[[str], Sequence[str]]) -> ClusterEnv | None:
        """The cluster that `env` describes; None where nothing started this process as part of one.

        `expand_hosts` turns a node list as Slurm writes it into host names. TF_CONFIG comes first, then mpirun (inside
        a Slurm job the rank that counts is MPI's), then a Slurm step. Raises ClusterError for a malformed TF_CONFIG,
        for sources that contradict each other and for a launcher that is not understood.
        """
        cluster = _from_tf_config(env["TF_CONFIG"]) if env.get("TF_CONFIG") else None
        launched = _from_mpi(env) or _from_slurm(env, expand_hosts)
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
        return cluster or launched


def _from_mpi(env: Mapping[str, str]) -> ClusterEnv | None:
    for launcher, names in _MPI_LAUNCHERS.items():
        if all(name in env for name in names):
            rank, size, *place = (_count(env, name) for name in names)
            return _unaddressed(f"{_MPIRUN} of {launcher}", rank, size, place, None)
    return None


def _from_slurm(env: Mapping[str, str], expand_hosts: Callable[[str], Sequence[str]]) -> ClusterEnv | None:
    if not all(name in env for name in _SLURM_STEP):
        return None
    rank, size, local_rank = (_count(env, name) for name in _SLURM_STEP[:3])
    hosts = expand_hosts(env["SLURM_STEP_NODELIST"])
    per_node = _tasks_per_node(env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = _count(env, "SLURM_NODEID") if "SLURM_NODEID" in env else 0
    local_size = per_node[node] if node < len(per_node) else 1
    # Steps of one job on the same nodes, and jobs that share a node, must not meet at one port.
    step = [int(number) for number in re.findall(r"\d+", env.get("SLURM_JOB_ID", "0") + " " + env["SLURM_STEP_ID"])]
    reserved = re.match(r"\d+", env.get("SLURM_STEP_RESV_PORTS", ""))
    port = int(reserved.group()) if reserved else _FIRST_PORT + (step[0] * 131 + step[-1]) % _NUM_PORTS
    cluster = _unaddressed(_SLURM, rank, size, [local_rank, local_size], f"{hosts[0]}:{port}")
    return replace(cluster, num_nodes=len(hosts))


def _tasks_per_node(text: str) -> list[int]:
    """`2(x3),1` -> [2, 2, 2, 1]."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def _unaddressed(source: str, rank: int, size: int, place: Sequence[int], meeting_point: str | None) -> ClusterEnv:
    local_rank, local_size = place
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        raise ClusterError(
            f"{source} calls this rank {rank} of {size}, and {local_rank} of {local_size} on its host, which cannot be"
        )
    tasks = (Task("worker"),) * size
    return ClusterEnv(source, rank, tasks, local_rank, local_size, meeting_point, 1 if size == 1 else None)


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
    return ClusterEnv.of_tasks(_TF_CONFIG, of_role[index], tuple(tasks))


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
        if not (host and port.isascii() and port.isdigit() and 0 < int(port) <= _MAX_PORT):
            raise ClusterError(f"TF_CONFIG: cluster.{role} holds {address!r}; it must be 'host:port'")
    return addresses
