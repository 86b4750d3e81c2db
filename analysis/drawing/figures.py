"""The main plots for papers, drawn by matplotlib: one file a workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing.plots import IDEAL_COLOUR, LINEAR_UP_TO, Line, devices_of, ideals
from analysis.metrics import GIB
from analysis.scaling import RATE
from analysis.stats import Interval
from results.text import printable
from results.writing import replacing

# A '$' in a name is no formula.
mpl.rcParams["text.parse_math"] = False

_STYLES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}


def save(title: str, found: Sequence[Line], quantiles: Mapping[str, Sequence[float]], paths: Sequence[Path]) -> None:
    """Throughput, efficiency, step times and memory of one workload, four panels in one figure, in each of the files;
    their suffixes are the formats."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(printable(title))
    (left, right), (low_left, low_right) = figure.subplots(2, 2)
    _throughput(left, found)
    _efficiency(right, found)
    ran = [(line, one) for line in found for one in line.points]
    names = [f"{printable(line.name)} x{devices_of(one)}" for line, one in ran]
    _boxes(low_left, names, [quantiles[one.configuration.key] for _, one in ran])
    sizes = [one.configuration.typical("peak_rss_bytes") for _, one in ran]
    places = [place for place, size in enumerate(sizes) if size]
    colours = [ran[place][0].colour for place in places]
    low_right.bar(places, [size.value / GIB for size in sizes if size], color=colours)
    low_right.set_xticks(range(len(names)), names)
    low_right.set(ylabel="peak resident memory\nof a process (GiB)")
    for axes in (low_left, low_right):
        axes.tick_params(axis="x", labelsize=7)
        for label in axes.get_xticklabels():
            label.set(rotation=35, horizontalalignment="right", rotation_mode="anchor")
    for path in paths:
        with replacing(path) as new:
            figure.savefig(new, dpi=120)


def _throughput(axes: Axes, found: Sequence[Line]) -> None:
    most = max(devices_of(one) for line in found for one in line.points)
    for name, one in ideals(found).items():
        axes.plot([1, most], [one, one * most], "--", color=IDEAL_COLOUR, label=f"{name} ({one:,.0f}/s)")
    for line in found:
        _line(axes, line, [(devices_of(one), one.configuration.typical(RATE)) for one in line.points])
    axes.set(xlabel="devices", ylabel="images/s, all devices")
    _devices_axis(axes, found)
    if most > LINEAR_UP_TO:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, None)
    axes.legend(fontsize=8)


def _efficiency(axes: Axes, found: Sequence[Line]) -> None:
    axes.axhline(1, linestyle="--", color=IDEAL_COLOUR)
    for line in found:
        _line(axes, line, [(devices_of(one), one.efficiency) for one in line.points])
    axes.set(xlabel="devices", ylabel="scaling efficiency", ylim=(0, None))
    _devices_axis(axes, found)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _line(axes: Axes, line: Line, points: Sequence[tuple[int, Interval | None]]) -> None:
    known = [(x, value) for x, value in points if value]
    below = [0.0 if value.low is None else value.value - value.low for _, value in known]
    above = [0.0 if value.high is None else value.high - value.value for _, value in known]
    axes.errorbar(
        [x for x, _ in known],
        [value.value for _, value in known],
        yerr=[below, above],
        marker="o",
        capsize=3,
        label=printable(line.name),
        color=line.colour,
        linestyle=_STYLES[line.dash],
    )


def _boxes(axes: Axes, names: Sequence[str], quantiles: Sequence[Sequence[float]]) -> None:
    boxes = [
        dict(zip(("whislo", "q1", "med", "q3", "whishi"), (1e3 * value for value in values), strict=True))
        | {"label": name}
        for name, values in zip(names, quantiles, strict=True)
    ]
    axes.bxp(boxes, showfliers=False)
    axes.set(ylabel="step time (ms), p1 to p99", ylim=(0, None))


def _devices_axis(axes: Axes, found: Sequence[Line]) -> None:
    counts = sorted({devices_of(one) for line in found for one in line.points})
    if counts[-1] > LINEAR_UP_TO:
        axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xticks([], minor=True)
