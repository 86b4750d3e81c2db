"""The history as a page: each configuration's points with their intervals, the levels, and the changes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from analysis.drawing.page import html
from analysis.drawing.plots import COLOURS, OTHER_COLOUR, Plot, interval_text, layout
from analysis.metrics import EFFICIENCY, Metric
from analysis.text import inert, short, shorts
from analysis.trends import Point, Trend
from results.text import printable
from results.writing import replacing

_LEVEL_COLOUR = "#9ca3af"
_WORSE, _BETTER = "#dc2626", "#16a34a"


def write(
    found: Sequence[Trend], metric: Metric, rows: Sequence[Sequence[str]], told: Sequence[str], path: Path
) -> None:
    """Writes the page. `rows` are the table with its headings first, `told` the changes in words."""
    headings, *cells = rows
    # What a column of numbers is sorted by, in the order of the headings.
    numbers = [
        (None, None, len(t.points), t.levels[-1], None, None, t.changes[-1].ratio if t.changes else None) for t in found
    ]
    text = html(
        "history.html.j2",
        title=f"{metric.title} over time",
        counts=f"{len(found)} configurations, up to {max(len(trend.points) for trend in found)} points",
        headings=headings,
        rows=[list(zip(texts, values, strict=True)) for texts, values in zip(cells, numbers, strict=True)],
        changes=[printable(line) for line in told],
        metric=metric.title,
        plots=[plot(trend, metric) for trend in found],
    )
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def plot(trend: Trend, metric: Metric) -> Plot:
    """Points with error bars, a line for each level, and a mark where it changes."""
    drawn = layout("night", metric.title)
    drawn["yaxis"] |= {"rangemode": "normal", **({"tickformat": ".0%"} if metric.name == EFFICIENCY else {})}
    drawn["shapes"] = [_mark(change.at, _WORSE if change.worse else _BETTER) for change in trend.changes]
    points = trend.points
    measured: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": "measured",
        "x": [_moment(point) for point in points],
        "y": shorts(point.value.value for point in points),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": shorts(
                None if (high := point.value.high) is None else high - point.value.value for point in points
            ),
            "arrayminus": shorts(
                None if (low := point.value.low) is None else point.value.value - low for point in points
            ),
        },
        "text": [inert(f"{point.experiment}: {interval_text(point.value, metric.text)}") for point in points],
        "hoverinfo": "text",
        "marker": {"color": COLOURS.get(str(trend.configuration.setup["strategy"]), OTHER_COLOUR)},
    }
    levels = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "level",
            "showlegend": start == 0,
            "x": [_moment(points[start]), _moment(points[end - 1])],
            "y": [short(level)] * 2,
            "line": {"color": _LEVEL_COLOUR, "width": 3},
            "hoverinfo": "skip",
        }
        for (start, end), level in zip(pairwise([*trend.starts, len(points)]), trend.levels, strict=True)
    ]
    return Plot(title=printable(trend.configuration.title), data=[*levels, measured], layout=drawn)


def _moment(point: Point) -> str:
    return f"{point.started_at:%Y-%m-%d %H:%M:%S}"


def _mark(at: Point, colour: str) -> dict[str, Any]:
    """A vertical line over the whole plot."""
    line = {"color": colour, "dash": "dot"}
    return {"type": "line", "x0": _moment(at), "x1": _moment(at), "y0": 0, "y1": 1, "yref": "paper", "line": line}
