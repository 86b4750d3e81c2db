"""Writes runs with known timings through the real store, for the tests of the analysis."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from results.schema import SCHEMA_VERSION, comparability_key
from results.store import Store

START = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)
SECOND = 1_000_000_000


def add_run(
    root: Path,
    step_times_s: Sequence[float] = (0.1, 0.1),
    *,
    compute_shares: Sequence[float] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A run whose timed iterations of ten steps took these times a step on every rank; returns its row.

    `compute_shares`: compute_s / duration_s of each rank; without them compute_s is null.
    """
    number = len(list((root / "runs").rglob("*.parquet")))
    run: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": f"R{number:05d}",
        "experiment": "e",
        "label": "l",
        "started_at": START + timedelta(minutes=number),
        "ended_at": START + timedelta(minutes=number, seconds=30),
        "status": "ok",
        "exit_code": 0,
        "strategy": "single",
        "synchronous": True,
        "model": "mnist_cnn",
        "dataset": "synthetic",
        "trainable_params": 62_346,
        "batch_per_device": 64,
        "num_batches_per_iter": 10,
        "precision": "fp32",
        "xla": False,
        "num_nodes": 1,
        "num_processes": 1,
        "num_ps": 0,
        "exchange": {},
        "num_devices": 1,
        "device_kind": "cpu",
        "device_name": "A CPU",
        "cores_per_device": 1.0,
        "preloaded": False,
        "scaling": "weak",
        "provenance": {"hostname": "h", "tensorflow_version": "2.21.0"},
        **fields,
    }
    run.setdefault("global_batch", run["batch_per_device"] * run["num_devices"])
    run["comparability_key"] = comparability_key(run)
    iters, ranks = [], []
    for rank in range(run["num_processes"]):
        now = 0.0
        devices = run["num_devices"] // run["num_processes"]
        row = {"run_id": run["run_id"], "rank": rank, "num_devices": devices}
        ranks.append({**row, "peak_rss_bytes": 2**30, "startup_time_s": 3.0})
        for index, step in enumerate((5.0, *step_times_s)):
            iters.append(
                {
                    "run_id": run["run_id"],
                    "rank": rank,
                    "iter": index,
                    "warmup": index == 0,
                    "num_batches": 10,
                    "t_start_ns": round(now * SECOND),
                    "duration_s": step * 10,
                    "data_wait_s": step,
                    "compute_s": step * 10 * compute_shares[rank] if compute_shares else None,
                    "loss": 1.0,
                }
            )
            now += step * 10
    Store(root).commit(
        run["run_id"], run["started_at"], {"runs": [run], "ranks": ranks, "iters": iters, "telemetry": []}
    )
    return run
