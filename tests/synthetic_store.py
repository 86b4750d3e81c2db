"""Writes runs with known timings through the real store, for the tests of the analysis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from results.schema import MEASUREMENT_VERSION, SCHEMA_VERSION, comparability_key
from results.store import Store

START = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)
SECOND = 1_000_000_000

PHASES = {"import_s": 2.0, "rendezvous_s": 0.25, "build_s": 0.5, "trace_s": 4.0, "warmup_s": 1.0}


def add_run(
    root: Path,
    step_times_s: Sequence[float] = (0.1, 0.1),
    *,
    compute_shares: Sequence[float] = (),
    data_wait_share: float = 0.04,
    hostnames: Sequence[str] = (),
    telemetry: Sequence[dict[str, Any]] = (),
    samples: int = 0,
    gpus: int = 0,
    accuracies: Sequence[float] = (),
    **fields: Any,
) -> dict[str, Any]:
    """A run whose timed iterations of ten steps took these times a step on every rank; returns its row.

    `data_wait_share` of each iteration is spent on waiting for input. `compute_shares` of each iteration and
    `hostnames` are dealt to the ranks; those with a host know their PHASES.
    Timing begins 50 s after Unix time 0. `telemetry` of rank 0 is as given; `samples` a rank are spread over its
    phases, and `gpus` have theirs. `accuracies` are those of epochs, each of which took an equal part of the iterations
    and was followed by an evaluation of 1 s, in which nothing else happened.
    """
    number = len(list((root / "runs").rglob("*.parquet")))
    run: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "measurement_version": MEASUREMENT_VERSION,
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
        "image_size": 28,
        "num_classes": 10,
        "dataset": "synthetic",
        "cache": "memory",
        "trainable_params": 62_346,
        "batch_per_device": 64,
        "num_batches_per_iter": 10,
        "phase": "train",
        "optimizer": "sgd",
        "learning_rate": 0.01,
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
    if accuracies:
        run.setdefault("epochs", len(accuracies))
    iters, ranks, evals = [], [], []
    ends = [len(step_times_s) * epoch // len(accuracies) for epoch in range(1, len(accuracies) + 1)]
    for rank in range(run["num_processes"]):
        now = 0.0
        workers = run["num_processes"] - run["num_ps"]  # servers come after them and have no iterations
        devices = run["num_devices"] // workers if rank < workers else 0
        row = {"run_id": run["run_id"], "rank": rank, "num_devices": devices}
        host = {"hostname": hostnames[rank % len(hostnames)]} if hostnames else {}
        placed = {**host, **PHASES, "timed_s": 10 * sum(step_times_s)} if host else {}
        share = compute_shares[rank % len(compute_shares)] if compute_shares else None
        ranks.append(
            {
                **row,
                "peak_rss_bytes": 2**30,
                "startup_time_s": 3.0,
                **placed,
                **({"gpu_peak_mem_used_bytes": 2**33} if gpus else {}),
            }
        )
        for index, step in enumerate((5.0, *step_times_s) if rank < workers else ()):
            iters.append(
                {
                    "run_id": run["run_id"],
                    "rank": rank,
                    "iter": index,
                    "warmup": index == 0,
                    "num_batches": 10,
                    "t_start_ns": round(now * SECOND),
                    "duration_s": step * 10,
                    "data_wait_s": data_wait_share * step * 10,
                    "compute_s": share and share * step * 10,
                    "loss": 1.0,
                }
            )
            now += step * 10
            if index in ends:
                evals.append(_evaluation(run, index, now, accuracies[ends.index(index)], ends)) if not rank else None
                now += 1.0
    sampled = [
        sample
        for rank in range(run["num_processes"])
        for index in range(samples)
        for sample in _samples(run["run_id"], rank, index / max(1, samples - 1), 10 * sum(step_times_s), gpus)
    ]
    told = [{"run_id": run["run_id"], "rank": 0, **sample} for sample in telemetry]
    Store(root).commit(
        run["run_id"],
        run["started_at"],
        {
            "runs": [run],
            "ranks": ranks,
            "iters": iters,
            "telemetry": [*told, *sampled],
            **({"evals": evals} if evals else {}),
        },
    )
    return run


def _evaluation(run: dict[str, Any], index: int, now: float, accuracy: float, ends: Sequence[int]) -> dict[str, Any]:
    """A row of `evals` after an iteration that ended `now`, of a run whose first iteration took 50 s."""
    epoch = ends.index(index) + 1
    return {
        "run_id": run["run_id"],
        "epoch": epoch,
        "iter": index,
        "steps": 10 * (index + 1),
        "images": 10 * (index + 1) * run["global_batch"],
        "t_ns": round(now * SECOND),
        "train_s": now - 50 - (epoch - 1),
        "eval_s": 1.0,
        "num_correct": round(100 * accuracy),
        "num_samples": 100,
        "accuracy": accuracy,
        "loss": 1 - accuracy,
    }


def _samples(run_id: str, rank: int, progress: float, timed_s: float, gpus: int) -> Iterator[dict[str, Any]]:
    before_s = sum(PHASES.values()) - PHASES["import_s"]
    at = {"run_id": run_id, "rank": rank, "t_ns": round((50 - before_s + progress * (before_s + timed_s)) * SECOND)}
    yield {**at, "cpu_pct": 100 * progress + rank, "rss_bytes": round(2**30 * (1 + progress))}
    for gpu in range(gpus):
        used = {"gpu_mem_used_bytes": 2**33, "gpu_util_pct": 90.0 - gpu, "power_w": 300.0, "sm_clock_mhz": 1980}
        yield {**at, "gpu_uuid": f"GPU-{rank}-{gpu}", **used}
