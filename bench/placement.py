"""Which cores and GPUs each process of this host gets: as far as one process can tell, and then as all of them see."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.config import MachineConfig
from bench.errors import EnvironmentFault, UsageError
from bench.telemetry import Gpus
from jobs.cluster import ClusterEnv
from jobs.cores import Core, physical_cores, share_cores
from jobs.launchers import granted


@dataclass(frozen=True, kw_only=True)
class Host:
    """What this process sees of its host, and whether a scheduler has already given each process its part."""

    cores: Sequence[Core]
    gpus: Sequence[str]
    """UUIDs."""
    own_cores: bool
    """The cores are this process's, as far as it can tell: where somebody has bound all of a job alike, no process can
    tell before all have met (`settle_cores`)."""
    own_gpus: bool
    """The GPUs are this process's alone."""


def look(cluster: ClusterEnv | None, gpus: Gpus, env: Mapping[str, str]) -> Host:
    """This host as one process of `cluster`, or, without one, as a process that has it to itself.

    Who sees less than the job has on this host was given a part; all who see the same must share it.
    """
    cpus = os.sched_getaffinity(0)
    uuids = [uuid for uuid in gpus.uuids if uuid]
    job_cores, job_gpus = granted(env)
    installed = os.cpu_count() or 1
    return Host(
        cores=physical_cores(sorted(cpus)),
        gpus=uuids,
        own_cores=cluster is not None and len(cpus) < min(installed, job_cores or installed),
        own_gpus=cluster is not None and len(uuids) < (job_gpus or gpus.installed),
    )


def cores_of_each(machine: MachineConfig, cores: Sequence[Core], replicas: Sequence[int]) -> list[tuple[int, ...]]:
    """CPUs for processes with so many replicas: whole cores, disjoint for those that train; who only serves may run on
    them all.

    Raises UsageError for more --cores-per-device than there are.
    """
    training = [count for count in replicas if count]
    blocks = share_cores(cores, max(1, len(training)), _cores_of_one(machine, len(cores), training))
    everything = tuple(sorted(set().union(*blocks)))
    turns = iter(blocks)
    return [next(turns) if count else everything for count in replicas]


def seen_cores(replicas: int) -> dict[str, Any]:
    """What a process tells the others of its cores: its CPUs as bits of a hexadecimal number, how many cores these
    belong to, and how many replicas compute there."""
    cpus = os.sched_getaffinity(0)
    return {
        "cpus": f"{sum(1 << cpu for cpu in cpus):x}",
        "num_cores": len(physical_cores(sorted(cpus))),
        "replicas": replicas,
    }


@dataclass(frozen=True)
class Share:
    """The cores of a process that shares what it sees with others of its host."""

    cpus: tuple[int, ...]
    num_cores: int
    """Cores of all processes that share."""
    replicas: int
    """Replicas of all of them."""


def settle_cores(machine: MachineConfig, ranks: Sequence[Mapping[str, Any]], rank: int) -> Share | None:
    """What a rank gets of the cores that it sees, now that all ranks have said what they see (`seen_cores`) and their
    `hostname`: those of a host that see the same cores share them, those that see none in common keep theirs. None for
    a rank that keeps what it has.

    Raises, the same on every rank, EnvironmentFault for ranks that see the same cores only in part, and UsageError for
    more --cores-per-device than there are. Ranks without replicas wait most of the time, and count nowhere.
    """
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, facts in enumerate(ranks):
        if facts["replicas"]:
            groups[facts["hostname"], int(facts["cpus"], 16)].append(number)
    _refuse_overlap(groups)
    share = None
    for (_, bits), group in groups.items():
        num_cores, replicas = ranks[group[0]]["num_cores"], [ranks[number]["replicas"] for number in group]
        each = _cores_of_one(machine, num_cores, replicas)
        if rank in group and (len(group) > 1 or each):
            cores = physical_cores([cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1])
            blocks = share_cores(cores, len(group), each)
            used = min(num_cores, len(group) * (each or max(1, num_cores // len(group))))
            share = Share(blocks[group.index(rank)], used, sum(replicas))
    return share


def _refuse_overlap(groups: Mapping[tuple[str, int], Sequence[int]]) -> None:
    """`groups`: (host, CPUs as bits) -> ranks."""
    known: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (host, bits), (rank, *_) in groups.items():
        for other_bits, other in known[host]:
            if other_bits & bits:
                raise EnvironmentFault(
                    f"ranks {other} and {rank} ({host}) are bound to cores that they share in part: bind all tasks of "
                    "a node to the same cores, or each to its own"
                )
        known[host].append((bits, rank))


def _cores_of_one(machine: MachineConfig, num_cores: int, replicas: Sequence[int]) -> int | None:
    """Cores of each process that trains, where --cores-per-device says it. Raises UsageError where there are fewer."""
    each = machine.cores_per_device and machine.cores_per_device * max(replicas, default=0)
    if each and each * len(replicas) > num_cores:
        raise UsageError(
            f"--cores-per-device {machine.cores_per_device} needs {each * len(replicas)} cores for {sum(replicas)} "
            f"devices on this machine, but this job may use {num_cores}: lower it, or leave it out to share the cores"
        )
    return each or None


def gpus_of_each(machine: MachineConfig, uuids: Sequence[str], trains: Sequence[bool]) -> list[tuple[str, ...]]:
    """UUIDs for each process, those that train and others, which use none but must know of what kind the run is.

    Raises UsageError where the GPUs cannot be shared out evenly.
    """
    shares = _shares(machine, uuids, max(1, sum(trains)))
    turns = iter(shares)
    return [next(turns) if each else shares[0] for each in trains]


def _shares(machine: MachineConfig, uuids: Sequence[str], count: int) -> list[tuple[str, ...]]:
    if machine.device == "cpu" or not uuids:
        return [()] * count
    if machine.gpu_memory_mib and count > len(uuids):
        return [(uuids[rank % len(uuids)],) for rank in range(count)]
    each = len(uuids) // count if machine.devices_per_worker is None else min(len(uuids), machine.devices_per_worker)
    if count > 1 and (each * count > len(uuids) or (machine.devices_per_worker is None and each * count < len(uuids))):
        raise UsageError(
            f"{count} workers cannot share {len(uuids)} GPU(s) evenly: choose the number of workers and "
            "--devices-per-worker to fit, let workers share a GPU with --gpu-memory-mib, or measure the CPU with "
            "--device cpu"
        )
    return [tuple(uuids[rank * each : (rank + 1) * each]) if count > 1 else tuple(uuids) for rank in range(count)]
