"""Processes that fill a store and are killed meanwhile: `python -m tests.store_writers --help`.

A module of its own so that they are forked from a process that has loaded pyarrow and never used it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path

import pandas  # noqa: F401 pyarrow asks for it; what is loaded here, a fork needs not load again
import pyarrow.parquet  # noqa: F401

from results.compact import compact
from results.record import RUN_SHARD, Ending, conclude, rank_shard
from results.schema import SCHEMA_VERSION
from results.store import Store, StoreError, new_run_id

RANKS, ITERS = 2, 4
LIFE_S = 0.05
"""At most so long between two kills."""


def loss(run_id: str, rank: int, number: int) -> float:
    """What the row of this iteration holds, so that a row can be told from a corrupt one."""
    return int(run_id[-8:], 16) % 1000 + rank + number / 8


def write_runs(root: Path, report: Callable[..., None], count: int | None) -> None:
    """Is the launcher and all ranks of one run after the other; `count` of them, or until it is killed."""
    store = Store(root)
    for _ in itertools.count() if count is None else range(count):
        started = datetime.now(timezone.utc)
        run_id = new_run_id(started)
        run = store.open_shard(run_id, RUN_SHARD)
        run.update_run(
            schema_version=SCHEMA_VERSION,
            experiment="e",
            sweep_task=run_id,
            started_at=started.timestamp(),
            config={},
            num_processes=RANKS,
            num_devices=RANKS,
            batch_per_device=8,
            synchronous=True,
            device_kind="cpu",
        )
        shards = [store.open_shard(run_id, rank_shard(rank)) for rank in range(RANKS)]
        for rank, shard in enumerate(shards):
            shard.update_rank(rank=rank, phase="timed", num_devices=1)
        for number in range(ITERS):
            for rank, shard in enumerate(shards):
                row = {"iter": number, "warmup": False, "num_batches": 1, "t_start_ns": number * 10**9}
                shard.add_iter(row | {"duration_s": 1.0, "loss": loss(run_id, rank, number)})
                report("line", run_id, rank, number)
        for shard in shards:
            shard.update_rank(status="ok", exit_code=0, weight_digests=["same"])
            shard.close()
        run.close()
        store.commit(run_id, started, conclude(run_id, store.read_shards(run_id), Ending(), datetime.now(timezone.utc)))
        report("finished", run_id)


def compact_again_and_again(root: Path) -> None:
    """Also the day that is being written."""
    while True:
        try:
            compact(root, date(2100, 1, 1))
        except StoreError:
            time.sleep(0.001)


def forked(work: Callable[[], None]) -> int:
    """The process that does it."""
    if pid := os.fork():
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main(argv: list[str]) -> int:
    """Exit code 1 when a process failed other than by being killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("reports", type=Path, help="each line: what a writer knows to be in the store, as JSON")
    parser.add_argument("--writers", type=int, required=True)
    parser.add_argument("--runs", type=int, help="of each writer; without kills")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compact", action="store_true")
    options = parser.parse_args(argv)
    reports = os.open(options.reports, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def report(*said: object) -> None:
        os.write(reports, f"{json.dumps(said)}\n".encode())

    def write() -> None:
        write_runs(options.root, report, options.runs)

    works = [write] * options.writers
    if options.compact:
        works.append(lambda: compact_again_and_again(options.root))
    running = [forked(work) for work in works]
    chance = random.Random(options.seed)
    wrong = 0

    def end(slot: int) -> bool:
        os.kill(running[slot], signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(running[slot], 0)[1]) == -signal.SIGKILL

    for _ in range(options.kills):
        time.sleep(chance.uniform(0, LIFE_S))
        slot = chance.randrange(len(running))
        wrong += not end(slot)
        running[slot] = forked(works[slot])
    for slot, pid in enumerate(running):
        if options.runs is None or slot >= options.writers:
            wrong += not end(slot)
        else:
            wrong += os.waitpid(pid, 0)[1] != 0
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
