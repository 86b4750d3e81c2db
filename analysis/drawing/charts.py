"""The plots that compare configurations. They show what was computed and compute nothing.

What a plot leaves out, its notes say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.configurations import PREDICTED, Configuration
from analysis.drawing import plots
from analysis.drawing.plots import (
    IDEAL_COLOUR,
    LINEAR_UP_TO,
    Line,
    Plot,
    Trace,
    devices_of,
    ideals,
    interval_text,
    layout,
    point_name,
)
from analysis.load import Results
from analysis.metrics import GIB, METRICS, gib, number
from analysis.scaling import RATE, Standing
from analysis.stats import Interval
from analysis.text import inert, short, shorts

_MILLI = 1e3


def throughput(found: Sequence[Line]) -> Plot:
    """images/s against devices, with intervals and the line of ideal scaling from the base case."""
    counts = plots.counts(found)
    drawn = _against_devices(counts, "images/s")
    if counts[-1] > LINEAR_UP_TO:
        drawn["yaxis"]["type"] = "log"
    data = [_ideal(name, [1, counts[-1]], [rate, rate * counts[-1]]) for name, rate in ideals(found).items()]
    for line in found:
        known = [(one, rate) for one in line.points if (rate := one.configuration.typical(RATE))]
        hover = [
            f"{point_name(line, one)}: {interval_text(rate, METRICS[RATE].text)}{_speedup(one)}" for one, rate in known
        ]
        data.append(_line(line, known, hover))
    return Plot(title="Throughput", data=data, layout=drawn)


def efficiency(found: Sequence[Line]) -> Plot:
    """Scaling efficiency against devices; 100% is ideal."""
    counts = plots.counts(found)
    drawn = _against_devices(counts, "efficiency")
    drawn["yaxis"]["tickformat"] = ".0%"
    data: list[Trace] = []
    reasons: dict[str, list[str]] = {}
    for line in found:
        known = [(one, one.efficiency) for one in line.points if one.efficiency]
        hover = [
            f"{point_name(line, one)}: {interval_text(value, '{:.1%}'.format)}{_base(one)}" for one, value in known
        ]
        if known:
            data.append(_line(line, known, hover))
        for one in line.points:
            if one.why_no_efficiency:
                reasons.setdefault(one.why_no_efficiency, []).append(f"{line.name} x{devices_of(one)}")
    if data:
        ideal = {"color": IDEAL_COLOUR, "dash": "dash"}
        ends = {"x": [counts[0], counts[-1]], "y": [1, 1]}
        data.insert(
            0, {"type": "scatter", "mode": "lines", "name": "ideal", "hoverinfo": "skip", "line": ideal, **ends}
        )
    notes = [f"Left out, {why}: {', '.join(dict.fromkeys(names))}." for why, names in reasons.items()]
    return Plot(title="Scaling efficiency", data=data, layout=drawn, notes=notes)


PARTS = {
    "compute": "#2563eb",
    "exchange and update, not hidden": "#d97706",
    "data wait": "#be185d",
    "not split": "#9ca3af",
}


def breakdown(found: Sequence[Line]) -> Plot:
    """Where the median step goes: a stacked bar for each configuration."""
    rows = [(line, one, _parts(one.configuration)) for line in found for one in line.points]
    rows = [row for row in rows if row[2]]
    names = [point_name(line, one) for line, one, _ in rows]
    data = [
        {
            "type": "bar",
            "name": part,
            "x": names,
            "marker": {"color": colour},
            "hoverinfo": "text",
            "y": shorts([parts.get(part) for _, _, parts in rows]),
            "hovertext": [_part_said(point_name(line, one), one, part, parts) for line, one, parts in rows],
        }
        for part, colour in PARTS.items()
        if any(part in parts for _, _, parts in rows)
    ]
    drawn = layout("", "median step (ms)") | {"barmode": "stack"}
    unsplit = any("not split" in parts for _, _, parts in rows)
    note = "Not split: these runs did not record how long they computed before the gradient exchange."
    return Plot(title="Step-time breakdown", data=data, layout=drawn, notes=[note] if unsplit else [])


_QUANTILES = """
with chosen_keys as (select unnest(?::varchar[]) as run_id, unnest(?::varchar[]) as key)
select key, quantile_cont(step_time_s, [0.01, 0.25, 0.5, 0.75, 0.99])
from steps join chosen_keys using (run_id) group by key
"""


def quantiles(results: Results, standings: Sequence[Standing]) -> dict[str, list[float]]:
    """Configuration.key -> p1, p25, p50, p75 and p99 of the step times of all its runs, s."""
    pairs = [(run_id, one.configuration.key) for one in standings for run_id in one.configuration.run_ids]
    if not pairs:
        return {}
    run_ids, keys = zip(*pairs, strict=True)
    return dict(results.tables.rows(_QUANTILES, list(run_ids), list(keys)))


def distributions(found: Sequence[Line], by_key: Mapping[str, Sequence[float]]) -> Plot:
    """The step times of all timed iterations, a box for each configuration."""
    data = []
    for line in found:
        known = [(one, by_key[key]) for one in line.points if (key := one.configuration.key) in by_key]
        columns = zip(*(values for _, values in known), strict=True)
        low, first, middle, third, high = (shorts(value * _MILLI for value in column) for column in columns)
        data.append(
            {
                "type": "box",
                "name": inert(line.name),
                "x": [point_name(line, one) for one, _ in known],
                "lowerfence": low,
                "q1": first,
                "median": middle,
                "q3": third,
                "upperfence": high,
                "marker": {"color": line.colour},
                "showlegend": False,
            }
        )
    note = "Box: p25, p50, p75; whiskers: p1 and p99. A step is as slow as its slowest rank."
    return Plot(title="Step times", data=data, layout=layout("", "step time (ms)"), notes=[note])


MEMORY = {
    "peak_rss_bytes": ("process, resident", "#6b7280"),
    "framework_peak_mem_bytes": ("TensorFlow's allocator", "#2563eb"),
    "gpu_peak_mem_used_bytes": ("GPU in use, all processes", "#d97706"),
}


PREDICTION = "predicted, of the allocator"


def memory(found: Sequence[Line], reasons: Mapping[str, str]) -> Plot:
    """Peaks of memory; `reasons` say why a column is null."""
    rows = [(line, one) for line in found for one in line.points]
    names = [point_name(line, one) for line, one in rows]
    data, notes = [], []
    for column, (label, colour) in MEMORY.items():
        sizes = [one.configuration.typical(column) for _, one in rows]
        if not any(sizes):
            notes.append(f"Left out: {label} ({reasons.get(column, 'not recorded')}).")
            continue
        data.append(
            {
                "type": "bar",
                "name": label,
                "x": names,
                "marker": {"color": colour},
                "hoverinfo": "text",
                "y": [short(size.value / GIB) if size else None for size in sizes],
                "hovertext": [
                    f"{name}<br>{label}: {interval_text(size, gib) if size else 'not measured'}"
                    for name, size in zip(names, sizes, strict=True)
                ],
            }
        )
    predicted = [(name, size.value) for name, (_, one) in zip(names, rows, strict=True) if (size := _predicted(one))]
    if predicted:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": PREDICTION,
                "marker": {"color": "#111827", "symbol": "diamond", "size": 9},
                "x": [name for name, _ in predicted],
                "y": shorts([size / GIB for _, size in predicted]),
                "hoverinfo": "text",
                "hovertext": [f"{name}<br>{PREDICTION}: {gib(size)}" for name, size in predicted],
            }
        )
    return Plot(title="Peak memory", data=data, layout=layout("", "peak memory (GiB)"), notes=notes)


def _predicted(standing: Standing) -> Interval | None:
    return standing.configuration.typical(PREDICTED)


def _speedup(standing: Standing) -> str:
    over_one = f"<br>speed-up {standing.speedup.value:.2f}" if standing.speedup else ""
    node, base = standing.node_speedup, standing.node_base
    return over_one + (f"<br>{node.value:.2f} times {inert(base.name)} on one node" if node and base else "")


def _base(standing: Standing) -> str:
    return f"<br>base: {inert(standing.base.name)}" if standing.base else ""


def _ideal(name: str, x: Sequence[int], y: Sequence[float]) -> Trace:
    line = {"color": IDEAL_COLOUR, "dash": "dash"}
    shown = {"type": "scatter", "mode": "lines", "name": inert(name), "hoverinfo": "skip", "line": line}
    return {**shown, "x": list(x), "y": shorts(y)}


def _line(line: Line, known: Sequence[tuple[Standing, Interval]], hover: list[str]) -> Trace:
    values = [value for _, value in known]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": inert(line.name),
        "hovertext": hover,
        "hoverinfo": "text",
        "line": {"color": line.colour, "dash": line.dash},
        "x": [devices_of(one) for one, _ in known],
        "y": shorts(value.value for value in values),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "thickness": 1,
            # An interval that is not known is not drawn; plotly takes null for none.
            "array": shorts(None if value.high is None else value.high - value.value for value in values),
            "arrayminus": shorts(None if value.low is None else value.value - value.low for value in values),
        },
    }


def _parts(one: Configuration) -> dict[str, float]:
    """Part of PARTS -> ms of the median step."""
    step, wait, compute = one.typical("step_time_p50_s"), one.share("data_wait_share"), one.share("compute_share")
    if step is None:
        return {}
    whole = step.value * _MILLI
    parts = {} if wait is None else {"data wait": wait * whole}
    if compute is None:
        return parts | {"not split": (1 - (wait or 0)) * whole}
    # Shares are of the mean step and of all ranks: a rest below 0 is their rounding.
    rest = max(0.0, 1 - compute - (wait or 0))
    return {"compute": compute * whole, "exchange and update, not hidden": rest * whole, **parts}


def _part_said(name: str, standing: Standing, part: str, parts: Mapping[str, float]) -> str:
    total = sum(parts.values())
    value = parts.get(part)
    known = "not measured" if value is None else f"{number(value)} ms, {value / total:.1%} of {number(total)} ms"
    exposed = standing.exposed
    free = standing.without_exchange
    against = f", against {inert(free.name)}" if free else ""
    told = interval_text(exposed, "{:.1%}".format) if exposed else ""
    extra = f"<br>exposed communication: {told} of the step{against}" if exposed else ""
    return f"{name}<br>{part}: {known}{extra}"


def _against_devices(counts: Sequence[int], y_title: str) -> dict[str, Any]:
    drawn = layout("devices", y_title)
    drawn["xaxis"] |= {"tickvals": list(counts), "ticktext": [str(count) for count in counts]}
    if counts[-1] > LINEAR_UP_TO:
        drawn["xaxis"]["type"] = "log"
    return drawn
