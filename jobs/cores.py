"""The physical cores of this machine, and how workers share them.

The kernel numbers hardware threads and calls each a CPU. Those of one physical core compute with the same units: two
workers on them would slow each other down, and what each measured would depend on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Core = tuple[int, ...]
"""The hardware threads of a physical core, by the numbers of their CPUs."""

_SYSFS = Path("/sys/devices/system/cpu")
_SIBLINGS = "topology/thread_siblings_list"
"""The CPUs of the same physical core, as the kernel writes them: equal texts are one core."""


def physical_cores(cpus: Sequence[int], sysfs: Path = _SYSFS) -> list[Core]:
    """The hardware threads among `cpus` by physical core, in the order of the first thread of each. Where the machine
    does not tell, each CPU counts as a core."""
    cores: dict[str, list[int]] = {}
    for cpu in sorted(cpus):
        cores.setdefault(_siblings(cpu, sysfs) or f"cpu{cpu}", []).append(cpu)
    return [tuple(core) for core in cores.values()]


def threads_per_core(sysfs: Path = _SYSFS) -> int | None:
    """Hardware threads of a physical core of this machine, the most of any; None where it does not tell."""
    cpus = [int(file.parts[-3][3:]) for file in sysfs.glob(f"cpu[0-9]*/{_SIBLINGS}")]
    return max(map(len, physical_cores(cpus, sysfs)), default=None)


def share_cores(cores: Sequence[Core], count: int, each: int | None = None) -> list[tuple[int, ...]]:
    """The CPUs of each of `count` workers: disjoint blocks of `each` whole cores, by default of as many as there are
    for each. With fewer cores than workers, workers share cores in turn."""
    size = each or max(1, len(cores) // count)
    blocks = [{cores[(rank * size + index) % len(cores)] for index in range(size)} for rank in range(count)]
    return [tuple(sorted(cpu for core in block for cpu in core)) for block in blocks]


def _siblings(cpu: int, sysfs: Path) -> str:
    try:
        return (sysfs / f"cpu{cpu}" / _SIBLINGS).read_text().strip()
    except OSError:
        return ""
