"""Faults that a worker brings on itself at a known point. Each call prepares the process whose forks train."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from strategies.base import Steps

FOREVER_S = 3600


def kill() -> None:
    """What the kernel does to a process when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_lock() -> None:
    """Hangs in native code with Python's global lock held, as TensorFlow's rendezvous can."""
    while True:
        ctypes.PyDLL(None).sleep(FOREVER_S)


def never_start(rank: int) -> None:
    """The process of a rank exists and does nothing."""
    import bench.worker as module

    run = module.run

    def late(config: Any, cluster: Any, env: Any) -> None:
        if cluster.rank == rank:
            time.sleep(FOREVER_S)
        run(config, cluster, env)

    module.run = late  # type: ignore[assignment]


def entering(phase: str, rank: int, act: Callable[[], object]) -> None:
    """Something happens to a rank as it enters a phase."""
    from bench.ranklog import RankLog

    enter = RankLog.enter

    wanted = phase

    def then(self: RankLog, phase: str) -> None:
        enter(self, phase)
        if phase == wanted and self.fields["rank"] == rank:
            act()

    RankLog.enter = then  # type: ignore[method-assign]


def time_is_up(phase: str, rank: int) -> None:
    """More time than the whole run may take has passed for its launcher as a rank enters a phase."""
    import jobs.launch as module

    leap = mmap.mmap(-1, 1)  # shared with the forks
    entering(phase, rank, lambda: leap.write(b"1"))
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + FOREVER_S * leap[0])
    setattr(module, "time", clock)  # noqa: B010


def half_a_line(rank: int) -> None:
    """A rank is killed in the middle of writing an iteration."""
    from results.store import Shard

    append = Shard._append

    def torn(self: Shard, kind: str, row: Any) -> None:
        if self._name == f"rank-{rank:05d}" and kind == "iters" and row["iter"] == 5:
            os.write(self._fd, b'\n["iters",{"iter":5,"dura')
            kill()
        append(self, kind, row)

    Shard._append = torn  # type: ignore[method-assign]


def over_quota(rank: int) -> None:
    """The file system takes nothing more of a rank from an iteration on."""
    from results.store import Shard

    append, full = Shard._append, False

    def refused(self: Shard, kind: str, row: Any) -> None:
        nonlocal full
        if self._name == f"rank-{rank:05d}":
            full = full or (kind == "iters" and row["iter"] == 5)
            if full:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), self._name)
        append(self, kind, row)

    Shard._append = refused  # type: ignore[method-assign]


def in_step(rank: int, act: Callable[[Sequence[Steps]], Sequence[Steps]]) -> None:
    """Something happens to what a rank's sixth call of steps returns."""
    from strategies.training import ReplicatedTrainer

    run, calls = ReplicatedTrainer.run, 0

    def then(self: Any, num_batches: int) -> Callable[[], Sequence[Steps]]:
        nonlocal calls
        calls += 1
        read = run(self, num_batches)
        return (lambda: act(read())) if calls == 6 and _rank() == rank else read

    ReplicatedTrainer.run = then  # type: ignore[method-assign]


def loss_is_no_number(steps: Sequence[Steps]) -> Sequence[Steps]:
    return [dataclasses.replace(part, loss=np.full_like(part.loss, np.nan)) for part in steps]


def device_memory_is_out(_steps: Sequence[Steps]) -> Sequence[Steps]:
    """TensorFlow's own error for a GPU that is full."""
    import tensorflow as tf

    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor on GPU:0")


def memory_is_limited(steps: Sequence[Steps]) -> Sequence[Steps]:
    """The process may have no more memory than it has, and asks for more."""
    import resource

    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: PTH123, SIM115
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096,) * 2)
    np.ones(1 << 30, np.uint8)
    return steps


def other_tensorflow(rank: int) -> None:
    """A rank that says it has another version."""
    from bench import provenance

    tell = provenance.framework_versions
    provenance.framework_versions = lambda: tell() | ({"TensorFlow": "2.99.0"} if _rank() == rank else {})


def hang_at_the_end() -> None:
    """Taking leave never ends, on any rank."""
    from strategies.base import Strategy

    Strategy.close = lambda self: hold_the_lock()  # type: ignore[method-assign]


def launcher_killed_while_it_commits() -> None:
    """Rows are half in the table `iters` when whoever writes them is killed."""
    import pyarrow.parquet as pq

    write = pq.write_table

    def torn(table: Any, where: Any, **options: Any) -> None:
        if "loss" in table.column_names:
            where.write(b"PAR1")
            where.flush()
            kill()
        write(table, where, **options)

    pq.write_table = torn


EXTRAS = {
    "source": ("bench.provenance", "git_state"),
    "host": ("bench.provenance", "_host"),
    "control groups": ("bench.provenance", "cgroup_limits"),
    "topology": ("bench.provenance", "_topology"),
    "NVML": ("pynvml", "nvmlInit"),
    "frameworks": ("bench.provenance", "of_frameworks"),
    "libraries": ("bench.libraries", "versions"),
    "oneDNN": ("bench.run_columns", "of_onednn"),
    "other load": ("psutil", "cpu_times"),
    "peak FLOP/s": ("bench.run_columns", "measured_peak"),
    "predicted memory": ("bench.run_columns", "predict"),
    "allocator": ("tensorflow.config.experimental", "reset_memory_stats"),
    "FLOPs": ("bench.workloads.arithmetic", "count_flops"),
    "process samples": ("psutil", "net_io_counters"),
}
"""Extra -> the module and the function that measure it."""


def break_extra(name: str, how: str) -> None:
    """A measurement beside the training fails or hangs; a hang has half a second."""
    import bench.extras

    def broken(*_: object, **__: object) -> None:
        if how == "hang":
            time.sleep(FOREVER_S)
        raise RuntimeError("broken by a test")

    module, function = EXTRAS[name]
    setattr(sys.modules.get(module) or import_module(module), function, broken)
    extras: Any = bench.extras.EXTRAS
    extras[name] = dataclasses.replace(extras[name], bound_s=0.5)


def _rank() -> int:
    import json

    task = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]
    return int(task["index"])
