"""What all plots are made of: a plotly figure as plain dictionaries, the lines of a workload, the words of a hover.

Plotly's own classes check every value, which for a page of forty workloads takes longer than all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.configurations import Configuration
from analysis.metrics import number
from analysis.scaling import RATE, Standing
from analysis.stats import Interval
from analysis.text import inert

Trace = dict[str, Any]

COLOURS = {
    "single": "#6b7280",
    "independent": "#d97706",
    "mirrored": "#2563eb",
    "mwms": "#059669",
    "central": "#0891b2",
    "ps": "#be185d",
    "horovod": "#7c3aed",
}
OTHER_COLOUR = "#a16207"
IDEAL_COLOUR = "#9ca3af"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
LINEAR_UP_TO = 32
"""Devices; beyond, the axes are logarithmic."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One plot, drawn in the page when it comes into view."""

    title: str
    data: list[Trace]
    """Empty where nothing is known; the notes say why."""
    layout: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """The configurations of one series that have figures, by rising number of devices."""

    name: str
    points: list[Standing]
    colour: str
    dash: str


def lines(group: Sequence[Standing], series: Mapping[str, str]) -> list[Line]:
    """The lines of a workload's plots."""
    order = [*COLOURS]
    ran = [one for one in group if one.configuration.samples[RATE]]
    named: dict[str, list[Standing]] = {}
    for one in sorted(ran, key=lambda one: (_place(one.configuration, order), series[one.configuration.key])):
        named.setdefault(series[one.configuration.key], []).append(one)
    used: dict[str, int] = {}
    found = []
    for name, points in named.items():
        colour = COLOURS.get(str(points[0].configuration.setup["strategy"]), OTHER_COLOUR)
        used[colour] = used.get(colour, -1) + 1
        found.append(Line(name=name, points=points, colour=colour, dash=DASHES[used[colour] % len(DASHES)]))
    return found


def devices_of(standing: Standing) -> int:
    """0 where it is unknown."""
    return int(standing.configuration.setup["num_devices"] or 0)


def ideals(found: Sequence[Line]) -> dict[str, float]:
    """Base case -> its images/s, of the lines of one workload."""
    bases = {one.base.key: one.base for line in found for one in line.points if one.base}
    rates = {base: rate.value for base in bases.values() if (rate := base.typical(RATE))}
    return {
        f"ideal from {number(rate)}/s of {base.name}" if len(rates) > 1 else "ideal": rate
        for base, rate in rates.items()
    }


def layout(x_title: str, y_title: str) -> dict[str, Any]:
    """Of a plot with one pair of axes; colours that depend on light and dark are the page's."""
    return {
        "xaxis": {"title": {"text": x_title}, "automargin": True},
        "yaxis": {"title": {"text": y_title}, "rangemode": "tozero", "automargin": True},
        "margin": {"l": 60, "r": 10, "t": 10, "b": 50 if x_title else 10},
        "height": 360,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom"},
    }


def _place(one: Configuration, order: Sequence[str]) -> int:
    strategy = str(one.setup["strategy"])
    return order.index(strategy) if strategy in order else len(order)


def counts(found: Sequence[Line]) -> list[int]:
    """The numbers of devices that a plot's axis shows."""
    return sorted({devices_of(one) for line in found for one in line.points})


def point_name(line: Line, standing: Standing) -> str:
    """'mwms x8', as plotly takes it."""
    return inert(f"{line.name} x{devices_of(standing)}")


def interval_text(value: Interval, text: Callable[[float], str]) -> str:
    """A figure, its interval and its runs."""
    runs = f"{value.runs} run{'' if value.runs == 1 else 's'}"
    if value.low is None or value.high is None:
        return f"{text(value.value)} ({runs})"
    return f"{text(value.value)} [{text(value.low)}, {text(value.high)}] ({runs})"
