"""Workers own whole physical cores, on machines of every shape."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cores import Core, physical_cores, share_cores, threads_per_core


def machine(sysfs: Path, *cores: Core) -> Path:
    """A folder like /sys/devices/system/cpu of a machine with these cores."""
    for core in cores:
        for cpu in core:
            folder = sysfs / f"cpu{cpu}" / "topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(",".join(map(str, core)) + "\n")
    (sysfs / "cpufreq").mkdir(parents=True, exist_ok=True)
    return sysfs


@pytest.mark.parametrize(
    ("cores", "threads"), [(((0, 2), (1, 3)), 2), (((0, 1), (2, 3)), 2), (((0,), (1,)), 1), (((0, 1), (2,)), 2)]
)
def test_hardware_threads_of_a_core_belong_to_one_worker(tmp_path: Path, cores: tuple[Core, ...], threads: int) -> None:
    sysfs = machine(tmp_path, *cores)
    cpus = [cpu for core in cores for cpu in core]
    assert physical_cores(cpus, sysfs) == [*cores]
    assert threads_per_core(sysfs) == threads
    assert share_cores(physical_cores(cpus, sysfs), 2) == [*cores]


def test_a_job_that_has_one_thread_of_each_core_has_as_many_cores(tmp_path: Path) -> None:
    sysfs = machine(tmp_path, (0, 4), (1, 5), (2, 6), (3, 7))
    assert physical_cores([0, 1, 2, 3], sysfs) == [(0,), (1,), (2,), (3,)]
    assert threads_per_core(sysfs) == 2


def test_where_the_machine_does_not_tell_each_cpu_is_a_core(tmp_path: Path) -> None:
    assert physical_cores([3, 1], tmp_path) == [(1,), (3,)]
    assert threads_per_core(tmp_path) is None


CORES = st.lists(st.integers(1, 4), min_size=1, max_size=64).map(
    lambda sizes: [tuple(range(100 * number, 100 * number + size)) for number, size in enumerate(sizes)]
)


@given(CORES, st.integers(1, 16), st.none() | st.integers(1, 8))
def test_shares_are_whole_cores_and_disjoint_as_long_as_there_are_enough(
    cores: list[Core], count: int, each: int | None
) -> None:
    shares = [set(share) for share in share_cores(cores, count, each)]
    owned = [[core for core in cores if not share.isdisjoint(core)] for share in shares]
    assert shares == [{cpu for core in own for cpu in core} for own in owned]
    size = each or max(1, len(cores) // count)
    if size * count <= len(cores):
        assert all(len(own) == size for own in owned)
        assert len({core for own in owned for core in own}) == size * count
    else:
        assert all(owned)
