"""Who am I: the rank of this process and the addresses of all. What launchers say of it reads `jobs.launchers`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

ROLES = ("chief", "worker", "ps")
"""The roles of TF_CONFIG that take part in training, in rank order."""

TF_CONFIG, MPIRUN, SLURM = "TF_CONFIG", "mpirun", "a Slurm step"
"""Who can start processes as one job, as `ClusterEnv.source` names or begins."""

MAX_PORT = 65535

OUR_PORTS = range(20_000, 32_000)
"""Where processes listen that nobody named a port for: below those that systems give to outgoing connections."""

LAUNCHER_PID = "TRAINSCALE_LAUNCHER_PID"
"""Set for the processes that a launcher of ours starts: they train, and do not launch again."""

SWEEP_PID = "TRAINSCALE_SWEEP_PID"
"""Set for a run by the sweep on this machine that started it: the run stops with it."""

STARTED_NS = "TRAINSCALE_STARTED_NS"
"""Set with it: Unix time in ns at which the process was started; the kernel's own record is good to a second."""

SCRATCH = "TRAINSCALE_SCRATCH"
"""Set with it: a folder for temporary files, which the launcher removes."""

SAMPLED_GPUS = "TRAINSCALE_SAMPLED_GPUS"
"""Set with it: UUIDs of the GPUs that this process samples, which may be those of other workers of its host too."""


class ClusterError(Exception):
    """The environment describes no usable cluster; one line with the remedy."""

    exit_code = 2


def whole_number(text: str, most: int) -> int | None:
    """The number that a launcher wrote; None for any other text, of which `int` takes some ('1_0', '+1', '\u0663')."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))):
        return None
    return int(text) if int(text) <= most else None


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
    local_ranks: tuple[int, ...] | None = None
    """Their ranks; None where only their number is known until the processes have met."""
    num_nodes: int | None = None
    """Hosts; None until the processes have met."""
    nodes: tuple[str, ...] = ()
    """What the scheduler calls the hosts; empty where it does not say."""
    node: str | None = None
    """What it calls this one."""
    meeting_points: tuple[str, ...] = ()
    """Each `host:port` at which rank 0 may wait for the others, the likeliest first; empty where MPI tells it."""
    job: str | None = None
    """What the scheduler calls these processes: no others on these hosts are called so."""

    @property
    def size(self) -> int:
        return len(self.tasks)

    @property
    def task(self) -> Task:
        return self.tasks[self.rank]

    @property
    def roles_are_named(self) -> bool:
        """Whoever started the processes has said which of them does what."""
        return self.source == TF_CONFIG

    @property
    def by_mpirun(self) -> bool:
        """mpirun started the processes, so that all of them can use MPI."""
        return self.source.startswith(MPIRUN)

    @property
    def may_use_mpi(self) -> bool:
        """The processes can use MPI if their launcher fits its library."""
        return self.by_mpirun or self.source == SLURM

    @property
    def here(self) -> tuple[Task, ...]:
        """The tasks of this host, by local rank. Where it is not known which they are, this one stands for each."""
        if self.local_ranks is None:
            return self.tasks if self.local_size == self.size else (self.task,) * self.local_size
        return tuple(self.tasks[rank] for rank in self.local_ranks)

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
        hosts = [task.host for task in tasks]
        here = tuple(other for other, host in enumerate(hosts) if host == hosts[rank])
        return cls(
            source=source,
            rank=rank,
            tasks=tasks,
            local_rank=here.index(rank),
            local_size=len(here),
            local_ranks=here,
            num_nodes=len(set(hosts)),
            meeting_points=(str(tasks[0].address),),
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
