"""Who am I: the rank of this process and the addresses of all, read from an environment mapping.

Pure: `from_env` takes the mapping, so that every launcher can be tested without it. A launcher that starts several
processes but is not understood is an error, never a run of N strangers that each believe to be alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

_TASK_COUNTS = {
    "Slurm": "SLURM_STEP_NUM_TASKS",
    "Open MPI": "OMPI_COMM_WORLD_SIZE",
    "MPICH": "PMI_SIZE",
    "horovodrun": "HOROVOD_SIZE",
}
"""Launcher -> the variable that says how many processes it started."""


class ClusterError(Exception):
    """The environment describes no usable cluster; one line with the remedy."""

    exit_code = 2


@dataclass(frozen=True)
class Task:
    """One process of the job: its role and the `host:port` that others reach it at."""

    role: str
    address: str

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@dataclass(frozen=True)
class ClusterEnv:
    """The job as this process sees it: `tasks` in rank order, `rank` into them, `source` for messages."""

    source: str
    rank: int
    tasks: tuple[Task, ...]

    @property
    def size(self) -> int:
        return len(self.tasks)

    @property
    def task(self) -> Task:
        return self.tasks[self.rank]

    @property
    def num_nodes(self) -> int:
        return len({task.host for task in self.tasks})

    @property
    def local_rank(self) -> int:
        """Which of this host's processes this is."""
        return sum(task.host == self.task.host for task in self.tasks[: self.rank])

    @property
    def local_size(self) -> int:
        """How many processes this host runs."""
        return sum(task.host == self.task.host for task in self.tasks)

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
    def alone(cls) -> ClusterEnv:
        """One process, no cluster."""
        return cls("no cluster", 0, (Task("worker", "localhost:0"),))

    @classmethod
    def local(cls, rank: int, ports: Sequence[int]) -> ClusterEnv:
        """Worker `rank` of as many workers as `ports`, all on this machine's loopback address."""
        return cls("the local launcher", rank, tuple(Task("worker", f"127.0.0.1:{port}") for port in ports))

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> ClusterEnv | None:
        """The cluster that `env` describes; None where nothing started this process as part of one.

        Raises ClusterError for a malformed TF_CONFIG, for sources that contradict each other and for a launcher
        that started several processes without telling them a TF_CONFIG.
        """
        cluster = _from_tf_config(env["TF_CONFIG"]) if env.get("TF_CONFIG") else None
        for launcher, variable in _TASK_COUNTS.items():
            count = env.get(variable, "1")
            size = cluster.size if cluster else 1
            if count not in ("1", str(size)):
                named = f"TF_CONFIG names {size}" if cluster else "no TF_CONFIG tells them apart"
                raise ClusterError(
                    f"{launcher} started {count} tasks ({variable}) but {named}: "
                    f"set TF_CONFIG for each of them, or start one task"
                )
        return cluster


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
    addresses = [t.address for t in tasks]
    if twice := sorted({a for a in addresses if addresses.count(a) > 1}):
        raise ClusterError(f"TF_CONFIG: cluster names {twice[0]} twice; every task needs its own host:port")
    role, index = task.get("type"), task.get("index")
    of_role = [rank for rank, t in enumerate(tasks) if t.role == role]
    if not of_role:
        raise ClusterError(f"TF_CONFIG: task.type is {role!r}, which the cluster does not name")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(of_role):
        raise ClusterError(f"TF_CONFIG: task.index is {index!r}; {role!r} has 0 to {len(of_role) - 1}")
    return ClusterEnv("TF_CONFIG", of_role[index], tuple(tasks))


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
