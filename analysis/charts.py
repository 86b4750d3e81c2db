"""The report's interactive plots, as plotly figures. They draw what `analysis.scaling` computed and compute nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.table import GIB

COLOURS = {
    "single": "#6b7280",
    "independent": "#d97706",
    "mirrored": "#2563eb",
    "mwms": "#059669",
    "central": "#0891b2",
    "ps": "#be185d",
    "horovod": "#7c3aed",
}
OTHER_COLOUR = "#111827"


def workloads(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(workload, its configurations); `rows` as `analysis.scaling.configurations` sorts them."""
    for name, group in groupby(rows, key=lambda row: str(row["workload"])):
        yield name, list(group)


def base_rate(rows: list[dict[str, Any]]) -> float | None:
    """images/s of the base case that these configurations are held against."""
    return next((row["base_images_per_s"] for row in rows if row["base_images_per_s"]), None)


def by_series(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The configurations that ran, a list for each series, by rising number of devices."""
    ran = [row for row in rows if row["images_per_s"] is not None]
    ranked = sorted(ran, key=lambda row: ([*COLOURS, row["strategy"]].index(row["strategy"]), row["series"]))
    names = dict.fromkeys(row["series"] for row in ranked)
    return {name: [row for row in ran if row["series"] == name] for name in names}


def colour(points: list[dict[str, Any]]) -> str:
    """The colour of a series: that of its strategy."""
    return COLOURS.get(points[0]["strategy"], OTHER_COLOUR)


def throughput(rows: list[dict[str, Any]]) -> go.Figure:
    """images/s against devices, with intervals and the line of ideal scaling from the base case."""
    figure = _figure("devices", "images/s")
    most = max(row["num_devices"] for row in rows)
    one = base_rate(rows)
    if one:
        ideal = {"color": "#9ca3af", "dash": "dash"}
        figure.add_scatter(x=[1, most], y=[one, one * most], mode="lines", name="ideal", line=ideal)
    for name, points in by_series(rows).items():
        rates = [row["images_per_s"] for row in points]
        spread = {
            "type": "data",
            "symmetric": False,
            "array": [(rate.high or rate.median) - rate.median for rate in rates],
            "arrayminus": [rate.median - (rate.low or rate.median) for rate in rates],
        }
        figure.add_scatter(
            x=[row["num_devices"] for row in points],
            y=[rate.median for rate in rates],
            error_y=spread,
            mode="lines+markers",
            name=name,
            line={"color": colour(points)},
        )
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(dtick=1 if most <= 16 else None)  # noqa: PLR2004
    return figure


def efficiency(rows: list[dict[str, Any]]) -> go.Figure:
    """Scaling efficiency against devices; 100% is ideal."""
    figure = _figure("devices", "efficiency")
    for name, points in by_series(rows).items():
        known = [row for row in points if row["efficiency"] is not None]
        figure.add_scatter(
            x=[row["num_devices"] for row in known],
            y=[row["efficiency"] for row in known],
            mode="lines+markers",
            name=name,
            line={"color": colour(points)},
        )
    figure.add_hline(y=1, line={"color": "#9ca3af", "dash": "dash"})
    figure.update_yaxes(rangemode="tozero", tickformat=".0%")
    figure.update_xaxes(dtick=1)
    return figure


def step_times(rows: list[dict[str, Any]], times: pd.DataFrame) -> go.Figure:
    """Every timed iteration's step time, a box for each configuration."""
    figure = _figure("", "step time (ms)")
    for name, points in by_series(rows).items():
        for row in points:
            values = times[times["run_id"].isin(row["run_ids"])]["step_time_s"] * 1e3
            figure.add_box(
                y=[round(value, 4) for value in values],
                name=f"{name} x{row['num_devices']}",
                marker={"color": colour(points)},
                boxpoints="all",
                showlegend=False,
            )
    figure.update_yaxes(rangemode="tozero")
    return figure


def memory(rows: list[dict[str, Any]]) -> go.Figure:
    """Peak memory of a process and of the framework's allocator in it."""
    figure = _figure("", "peak memory (GiB)")
    ran = [row for points in by_series(rows).values() for row in points]
    names = [f"{row['series']} x{row['num_devices']}" for row in ran]
    for column, label, shade in (
        ("peak_rss_bytes", "process, resident", "#6b7280"),
        ("framework_peak_mem_bytes", "TensorFlow's allocator", "#2563eb"),
    ):
        sizes = [row[column] / GIB if row[column] is not None else None for row in ran]
        figure.add_bar(x=names, y=sizes, name=label, marker={"color": shade})
    return figure


def _figure(x_title: str, y_title: str) -> go.Figure:
    return go.Figure(
        layout={
            "xaxis": {"title": {"text": x_title}},
            "yaxis": {"title": {"text": y_title}},
            "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
            "height": 360,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "y": 1.12},
        }
    )
