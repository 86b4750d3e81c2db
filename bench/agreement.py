"""Sees that all ranks are of one kind, before a framework connects them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.errors import EnvironmentFault, UsageError


def compare(ranks: Sequence[dict[str, Any]]) -> None:
    """Raises for the first rank that is not of rank 0's kind: EnvironmentFault for other libraries or a GPU that two
    would use, UsageError for other settings, weights to begin with or files of data. Each rank has said
    its hostname, versions, settings, digests of the weights' file and of the data, and own GPUs."""
    first = ranks[0]
    for rank, said in enumerate(ranks):
        for name, version in said["versions"].items():
            if version != first["versions"].get(name):
                raise EnvironmentFault(
                    f"rank {rank} ({said['hostname']}) has {name} {version} but rank 0 ({first['hostname']}) has "
                    f"{first['versions'].get(name)}: install the same everywhere"
                )
        if said["settings"] != first["settings"]:
            raise UsageError(
                f"rank {rank} ({said['hostname']}) was started with other settings or devices than rank 0 "
                f"({first['hostname']}): give every task the same command"
            )
        if said["weights"] != first["weights"]:
            raise UsageError(
                f"rank {rank} ({said['hostname']}) has another file for --weights than rank 0 ({first['hostname']}): "
                "give all of them the same, in a folder that they share"
            )
        if said["data"] != first["data"]:
            raise UsageError(
                f"rank {rank} ({said['hostname']}) has other files of the data set than rank 0 ({first['hostname']}): "
                "give all of them the same files, with the same dataset.json, in --data-dir"
            )
    users: dict[str, int] = {}
    for rank, said in enumerate(ranks):
        for uuid in said["gpus"]:
            if users.setdefault(uuid, rank) != rank:
                raise EnvironmentFault(
                    f"ranks {users[uuid]} and {rank} ({said['hostname']}) would both train on {uuid}: give each task "
                    "its own GPU (srun --gpus-per-task=1), or let them share it with --gpu-memory-mib"
                )
