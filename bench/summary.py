"""The figures of one run, from its rows. Definitions: docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results.record import Tables

_IDENTITY = (
    *("run_id", "experiment", "label", "sweep_task", "status", "exit_code", "error", "failed_rank", "failed_phase"),
    *("strategy", "model", "dataset", "phase", "optimizer", "epochs", "target_accuracy"),
    *("num_devices", "device_kind", "batch_per_device", "global_batch"),
    "predicted_mem_bytes",
)

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation of a normal distribution -> its standard deviation."""


def images_per_s(
    timed: Sequence[dict[str, Any]],
    devices: Mapping[int, int],
    batch_per_device: int,
    evals: Sequence[dict[str, Any]] = (),
) -> float:
    """Images of all ranks / (latest end - earliest start - evaluations between them). `timed`: rows of `iters` without
    warm-up, all ranks; `devices`: rank -> replicas; `evals`: rows of that table.

    A window over everything, not a mean of rates, which would weigh fast steps more (MLPerf HPC's rule).
    """
    start_ns = min(row["t_start_ns"] for row in timed)
    end_ns = max(row["t_start_ns"] + row["duration_s"] * 1e9 for row in timed)
    batches = sum(row["num_batches"] * devices[row["rank"]] for row in timed)
    last = max(row["iter"] for row in timed)
    evaluated_s = sum(row["eval_s"] for row in evals if row["iter"] < last)
    return float(batches * batch_per_device / ((end_ns - start_ns) / 1e9 - evaluated_s))


def summarise(tables: Tables) -> dict[str, Any]:
    """The figures of an ended run; those of the timing are None unless its status is ok."""
    run = tables["runs"][0]
    summary = {name: run.get(name) for name in _IDENTITY} | dict.fromkeys(FIGURES)
    timed = [row for row in tables["iters"] if not row["warmup"]]
    if run["status"] != "ok":
        return summary
    devices = {row["rank"]: row["num_devices"] for row in tables["ranks"]}
    evals = tables.get("evals", [])
    rate = images_per_s(timed, devices, run["batch_per_device"], evals)
    # A step is as slow as its slowest rank.
    iterations: dict[int, dict[str, Any]] = {}
    for row in timed:
        if row["duration_s"] > iterations.get(row["iter"], {"duration_s": 0})["duration_s"]:
            iterations[row["iter"]] = row
    step_times = np.asarray([row["duration_s"] / row["num_batches"] for row in iterations.values()])
    rates = run["global_batch"] / step_times
    p50, p90, p95, p99 = np.percentile(step_times, _PERCENTS)
    return summary | {
        "images_per_s": rate,
        "images_per_s_per_device": rate / run["num_devices"],
        "images_per_s_spread": float(1.96 * rates.std()),
        "step_time_p50_s": float(p50),
        "step_time_p90_s": float(p90),
        "step_time_p95_s": float(p95),
        "step_time_p99_s": float(p99),
        "step_time_jitter_s": float(MAD_TO_SIGMA * np.median(np.abs(step_times - p50))),
        "mfu": _mfu(run, rate / run["num_devices"]),
        "data_wait_share": _data_wait_share(timed),
        **(_latencies(timed) if run.get("phase") == "forward" else {}),
        **{name: _largest(tables["ranks"], name) for name in _LARGEST_OF_RANKS},
        "predicted_mem_ratio": _ratio(run.get("predicted_mem_bytes"), _largest(tables["ranks"], _MEASURED_MEM)),
        "final_accuracy": evals[-1]["accuracy"] if evals else None,
        "best_accuracy": _largest(evals, "accuracy"),
        "time_to_accuracy_s": run.get("time_to_accuracy_s"),
    }


def _ratio(predicted: float | None, measured: float | None) -> float | None:
    return predicted / measured if predicted and measured else None


def _data_wait_share(timed: Sequence[dict[str, Any]]) -> float | None:
    """Of the iterations in which it was measured: a clock that was set leaves some without."""
    known = [row for row in timed if row["data_wait_s"] is not None]
    return sum(row["data_wait_s"] for row in known) / sum(row["duration_s"] for row in known) if known else None


def _latencies(timed: Sequence[dict[str, Any]]) -> dict[str, float]:
    """From asking for a batch until its result is there, over the batches of all ranks, which do not wait for each
    other. Nothing where calls were timed that hold several batches: their mean says nothing of the slowest."""
    if any(row["num_batches"] > 1 for row in timed):
        return {}
    found = np.percentile([row["duration_s"] for row in timed], _PERCENTS)
    return dict(zip(_LATENCIES, map(float, found), strict=True))


def _mfu(run: Mapping[str, Any], images_per_s_per_device: float) -> float | None:
    """Model FLOPs utilisation: FLOPs a second and device that the model itself takes / what the device can do."""
    flops = run.get("flops_per_image" if run.get("phase") == "forward" else "train_flops_per_image")
    peak = run.get("peak_flops_per_s")
    return flops * images_per_s_per_device / peak if flops and peak else None


def _largest(rows: Sequence[dict[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows if row.get(column) is not None]
    return max(values, default=None)


_MEASURED_MEM = "framework_peak_mem_bytes"
_LARGEST_OF_RANKS = ("startup_time_s", "peak_rss_bytes", _MEASURED_MEM)


_PERCENTS = (50, 90, 95, 99)
_LATENCIES = tuple(f"latency_p{percent}_s" for percent in _PERCENTS)

FIGURES = (
    "images_per_s",
    "images_per_s_per_device",
    "images_per_s_spread",
    "step_time_p50_s",
    "step_time_p90_s",
    "step_time_p95_s",
    "step_time_p99_s",
    "step_time_jitter_s",
    "data_wait_share",
    *_LATENCIES,
    "mfu",
    *_LARGEST_OF_RANKS,
    "predicted_mem_ratio",
    "final_accuracy",
    "best_accuracy",
    "time_to_accuracy_s",
)
