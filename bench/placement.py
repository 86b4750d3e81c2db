"""Which cores and GPUs each process of this host gets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.config import MachineConfig
from bench.errors import UsageError
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
    """The cores are this process's alone."""
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
    workers = sum(count > 0 for count in replicas)
    each = machine.cores_per_device and machine.cores_per_device * max(replicas)
    if each and each * workers > len(cores):
        raise UsageError(
            f"--cores-per-device {machine.cores_per_device} needs {each * workers} cores for {sum(replicas)} "
            f"devices on this machine, but this job may use {len(cores)}: lower it, or leave it out to share the cores"
        )
    blocks = share_cores(cores, max(1, workers), each or None)
    everything = tuple(sorted(set().union(*blocks)))
    turns = iter(blocks)
    return [next(turns) if count else everything for count in replicas]


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
