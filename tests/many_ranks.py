"""What a run of very many ranks leaves: every rank writes its shard at the same time, in threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

from results.record import RUN_SHARD, Ending, Tables, conclude, rank_shard
from results.store import Store

RUN_ID = "20260101T000000-0000beef"
STARTED = datetime(2026, 1, 1, tzinfo=timezone.utc)
ITERS, SAMPLES = 10, 20
_SECOND_NS = 10**9


def write_and_merge(store: Store, ranks: int) -> Tables:
    """A run of so many ranks, from their shards to its files; the rows that went into these."""
    run: dict[str, Any] = {
        "started_at": STARTED.timestamp(),
        "config": {},
        "num_processes": ranks,
        "num_devices": ranks,
        "device_kind": "gpu",
        "synchronous": True,
        "batch_per_device": 8,
        "global_batch": 8 * ranks,
    }
    shard = store.open_shard(RUN_ID, RUN_SHARD)
    shard.update_run(**run)
    shard.close()
    together = threading.Barrier(min(ranks, 64))

    def write(rank: int) -> None:
        if rank < together.parties:
            together.wait()
        shard = store.open_shard(RUN_ID, rank_shard(rank))
        shard.update_rank(rank=rank, hostname=f"node{rank // 8}", num_devices=1, clock_offset_ns=rank)
        for number in range(ITERS):
            start_ns = number * _SECOND_NS + rank
            shard.add_iter(
                {"iter": number, "warmup": number < 2, "num_batches": 5, "t_start_ns": start_ns, "duration_s": 0.9}
                | {"data_wait_s": 0.1, "compute_s": 0.6, "loss": float(rank)}
            )
        for number in range(SAMPLES):
            shard.add_telemetry({"t_ns": number * _SECOND_NS // 2 + rank, "gpu_mem_used_bytes": rank + number})
        shard.update_rank(status="ok", exit_code=0, weight_digests=["same"])
        shard.close()

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(write, range(ranks)))
    tables = conclude(RUN_ID, store.read_shards(RUN_ID), Ending(), datetime.now(timezone.utc))
    store.commit(RUN_ID, STARTED, tables)
    return tables
