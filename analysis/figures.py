"""The same plots for papers and READMEs, drawn by matplotlib: one file a workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd

from analysis.charts import base_rate, by_series, colour
from analysis.table import GIB

mpl.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def save(title: str, rows: list[dict[str, Any]], times: pd.DataFrame, path: Path) -> None:
    """Throughput, efficiency, step times and memory of one workload, four panels in one PNG."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    (left, right), (low_left, low_right) = figure.subplots(2, 2)
    series = by_series(rows)
    _throughput(left, rows, series)
    _efficiency(right, series)
    ran = [row for points in series.values() for row in points]
    names = [f"{row['series']}\nx{row['num_devices']}" for row in ran]
    samples = [times[times["run_id"].isin(row["run_ids"])]["step_time_s"].to_numpy() * 1e3 for row in ran]
    low_left.boxplot(samples, tick_labels=names)
    low_left.set(ylabel="step time (ms)", ylim=(0, None))
    sizes = [row["peak_rss_bytes"] / GIB for row in ran]
    low_right.bar(names, sizes, color=[colour([row]) for row in ran])
    low_right.set(ylabel="peak resident memory\nof a process (GiB)")
    for axes in (low_left, low_right):
        axes.tick_params(axis="x", labelsize=7)
    figure.savefig(path, dpi=120)


def _throughput(axes: Axes, rows: list[dict[str, Any]], series: dict[str, list[dict[str, Any]]]) -> None:
    most = max(row["num_devices"] for row in rows)
    one = base_rate(rows)
    if one:
        axes.plot([1, most], [one, one * most], "--", color="#9ca3af", label=f"ideal from 1 device ({one:,.0f}/s)")
    for name, points in series.items():
        rates = [row["images_per_s"] for row in points]
        below = [rate.median - (rate.low or rate.median) for rate in rates]
        above = [(rate.high or rate.median) - rate.median for rate in rates]
        axes.errorbar(
            [row["num_devices"] for row in points],
            [rate.median for rate in rates],
            yerr=[below, above],
            marker="o",
            capsize=3,
            label=name,
            color=colour(points),
        )
    axes.set(xlabel="devices", ylabel="images/s, all devices", ylim=(0, None))
    axes.set_xticks(sorted({row["num_devices"] for row in rows}))
    axes.legend(fontsize=8)


def _efficiency(axes: Axes, series: dict[str, list[dict[str, Any]]]) -> None:
    devices = sorted({row["num_devices"] for points in series.values() for row in points})
    axes.axhline(1, linestyle="--", color="#9ca3af")
    for name, points in series.items():
        known = [row for row in points if row["efficiency"] is not None]
        x = [row["num_devices"] for row in known]
        axes.plot(x, [row["efficiency"] for row in known], "o-", label=name, color=colour(points))
    axes.set(xlabel="devices", ylabel="scaling efficiency", ylim=(0, None))
    axes.set_xticks(devices)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
