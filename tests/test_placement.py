"""Cores of processes that have met: what each sees says which are shared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from bench.config import MachineConfig
from bench.errors import EnvironmentFault, UsageError
from bench.placement import seen_cores, settle_cores
from tests.emulated_nvml import install
from tests.test_plan import FOUR_GPUS, joined

MACHINE = MachineConfig()


@pytest.fixture(autouse=True)
def two_threads_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs 0 and 1 are threads of one core, as are 2 and 3, and so on."""
    monkeypatch.setattr("jobs.cores._siblings", lambda cpu, _sysfs: str(cpu // 2))


def saying(cpus: Sequence[int], host: str = "a", replicas: int = 1) -> dict[str, Any]:
    """What a rank bound to these CPUs says."""
    bits = sum(1 << cpu for cpu in cpus)
    return {"hostname": host, "cpus": f"{bits:x}", "num_cores": len({cpu // 2 for cpu in cpus}), "replicas": replicas}


def test_what_a_process_says_of_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {2, 3, 64})
    assert seen_cores(2) == {"cpus": "1000000000000000c", "num_cores": 2, "replicas": 2}


@pytest.mark.parametrize(
    ("ranks", "machine", "cpus", "cores", "replicas"),
    [
        ([saying(range(8))] * 2, MACHINE, [(0, 1, 2, 3), (4, 5, 6, 7)], 4, 2),
        ([saying(range(16))] * 3, MACHINE, [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)], 6, 3),
        ([saying([6, 7])] * 2, MACHINE, [(6, 7), (6, 7)], 1, 2),
        ([saying(range(8))] * 2, MachineConfig(cores_per_device=1), [(0, 1), (2, 3)], 2, 2),
        ([saying(range(4), replicas=2)] * 2, MachineConfig(cores_per_device=1), None, None, None),
        ([saying(range(8), replicas=2)] * 2, MachineConfig(cores_per_device=1), [(0, 1, 2, 3), (4, 5, 6, 7)], 4, 4),
        ([saying(range(4)), saying(range(4, 8))], MACHINE, [None, None], None, None),
        ([saying(range(4)), saying(range(4), host="b")], MACHINE, [None, None], None, None),
        ([saying(range(4)), saying(range(4, 8))], MachineConfig(cores_per_device=1), [(0, 1), (4, 5)], 1, 1),
        ([saying(range(8)), saying(range(8), replicas=0)], MACHINE, [None, None], None, None),
        ([saying(range(2)), saying(range(4), replicas=0)], MACHINE, [None, None], None, None),
    ],
)
def test_who_sees_the_same_cores_shares_them(
    ranks: list[dict[str, Any]],
    machine: MachineConfig,
    cpus: list[tuple[int, ...] | None] | None,
    cores: int | None,
    replicas: int | None,
) -> None:
    if cpus is None:
        with pytest.raises(UsageError, match=r"--cores-per-device 1 needs 4 cores for 4 devices.* may use 2"):
            settle_cores(machine, ranks, 0)
        return
    shares = [settle_cores(machine, ranks, rank) for rank in range(len(ranks))]
    assert [share and share.cpus for share in shares] == cpus
    for share in filter(None, shares):
        assert (share.num_cores, share.replicas) == (cores, replicas)


def test_cores_that_are_shared_in_part_are_refused_on_every_rank() -> None:
    ranks = [saying(range(4), host="b"), saying(range(4)), saying(range(2, 6))]
    for rank in range(3):
        with pytest.raises(EnvironmentFault, match=r"ranks 1 and 2 \(a\) are bound to cores that they share in part"):
            settle_cores(MACHINE, ranks, rank)


def test_of_cores_that_somebody_bound_nobody_takes_a_part_before_all_have_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks of one host see the same four of its eight CPUs: they share these, or do not know each other's."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    monkeypatch.setattr("jobs.cores._siblings", lambda cpu, _sysfs: str(cpu))
    for index in (0, 1):
        assert joined(index, ["a", "a"], "--cores-per-device=1").cores == ((0, 1, 2, 3),)


def test_a_gpu_of_each_task_is_its_own_where_there_are_fewer_than_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FOUR_GPUS[:1])
    assert [joined(index, ["a", "a"]).gpus for index in (0, 1)] == [(("GPU-0",),)] * 2
