"""How well a configuration uses its devices, against a named base case: one device without a strategy."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.stats import Interval, median_interval

_SAME_WORK = ("model", "dataset", "num_batches_per_iter", "precision", "xla", "trainable_params", "preloaded")
_SAME_HARDWARE = ("device_kind", "device_name", "cores_per_device")
BASE_STRATEGY = "single"

SETUP = (
    *("strategy", "model", "dataset", "num_devices", "num_processes", "num_nodes", "scaling", "batch_per_device"),
    *("preloaded", "global_batch", "device_kind", "device_name", "cores_per_device"),
    *("num_ps", "requested_all_reduce", "exchange"),
)


def configurations(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """A dict for each configuration (`comparability_key`), sorted for reading.

    Holds the columns of SETUP, `run_ids` of the runs that are ok, `failed` (count), `errors`, Intervals `images_per_s`
    and `step_time_s` or None, largest `peak_rss_bytes` and `framework_peak_mem_bytes`, and `efficiency` with
    `efficiency_range` and `base_images_per_s`, or None with `why_no_efficiency`. `workload` names what can share a
    plot: the same model, data, arithmetic, batch basis and cores per device; `series` names what makes one line there.
    """
    found = []
    for _, group in runs.groupby("comparability_key", sort=False):
        ok, bad = group[group["status"] == "ok"], group[group["status"] != "ok"]
        row = {name: group.iloc[-1][name] for name in {*SETUP, *_SAME_WORK, *_SAME_HARDWARE}}
        row["run_ids"] = list(ok["run_id"])
        row["failed"] = len(bad)
        row["errors"] = sorted({str(error) for error in bad["error"]})
        row["images_per_s"] = median_interval(list(ok["images_per_s"])) if len(ok) else None
        row["step_time_s"] = median_interval(list(ok["step_time_p50_s"])) if len(ok) else None
        row["data_wait_share"] = float(ok["data_wait_share"].median()) if len(ok) else None
        for name in ("peak_rss_bytes", "framework_peak_mem_bytes"):
            row[name] = float(ok[name].max()) if len(ok) and ok[name].notna().any() else None
        found.append(row)
    for row in found:
        row.update(_efficiency(row, found))
        row["workload"] = _workload(row)
        row["series"] = _series(row)
    return sorted(found, key=lambda row: (row["workload"], row["num_devices"], row["series"]))


def _series(row: dict[str, Any]) -> str:
    """The strategy, and what was asked of its gradient exchange."""
    asked = row["requested_all_reduce"]
    collective = [asked] if isinstance(asked, str) and asked != "auto" else []
    knobs = [row["exchange"]] if isinstance(row["exchange"], str) and row["exchange"] else []
    return " ".join([str(row["strategy"]), *collective, *knobs])


def _workload(row: dict[str, Any]) -> str:
    strong = row["scaling"] == "strong"
    batch = f"{row['global_batch']} images in all" if strong else f"{row['batch_per_device']} images a device"
    count = row["cores_per_device"]
    cores = f", {count:g} core{'' if count == 1 else 's'} a device" if row["device_kind"] == "cpu" else ""
    precision = f", {row['precision']}" if row["precision"] != "fp32" else ""
    xla = ", XLA" if row["xla"] else ""
    return f"{row['model']} on {row['dataset']}{precision}{xla}, {batch}{cores}"


def base_case(row: dict[str, Any], among: list[dict[str, Any]]) -> dict[str, Any] | None:
    """One device, no strategy, the same work on the same hardware: the same batch per device for weak scaling, the
    same global batch for strong."""
    batch = "global_batch" if row["scaling"] == "strong" else "batch_per_device"
    same = (*_SAME_WORK, *_SAME_HARDWARE, batch)
    return next(
        (
            other
            for other in among
            if other["strategy"] == BASE_STRATEGY
            and other["images_per_s"] is not None
            and all(other[name] == row[name] for name in same)
        ),
        None,
    )


def _efficiency(row: dict[str, Any], among: list[dict[str, Any]]) -> dict[str, Any]:
    """T(N) / (N x T(1)): weak scaling as Horovod defines it; with a fixed global batch it equals t(1) / (N x t(N))."""
    base = base_case(row, among)
    if row["images_per_s"] is None or base is None:
        why = (
            "no good run" if row["images_per_s"] is None else "no run of the base case with the same work and resources"
        )
        return {"base_images_per_s": None, "efficiency": None, "efficiency_range": None, "why_no_efficiency": why}
    many: Interval = row["images_per_s"]
    one: Interval = base["images_per_s"]
    devices = row["num_devices"]
    span = None
    if row is not base and many.low and many.high and one.low and one.high:
        # The extremes of both sides: wider than either side's interval alone, never narrower than the truth.
        span = (many.low / (devices * one.high), many.high / (devices * one.low))
    return {
        "base_images_per_s": one.median,
        "efficiency": many.median / (devices * one.median),
        "efficiency_range": span,
        "why_no_efficiency": None,
    }
