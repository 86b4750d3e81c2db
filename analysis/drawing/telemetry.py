"""What was sampled while a run was under way, over its phases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from analysis.drawing.one_run import Shown
from analysis.drawing.plots import Plot, Trace, layout
from analysis.load import Results
from analysis.metrics import GIB
from analysis.text import short, shorts

MOST_POINTS = 300
"""Of a line."""
MOST_LINES = 8
"""Of a metric; beyond, the lines are the least, the median and the most of all ranks."""

SECOND = 10**9

METRICS = {
    "cpu_pct": ("CPU (%)", 1),
    "rss_bytes": ("resident (GiB)", GIB),
    "gpu_util_pct": ("GPU (%)", 1),
    "gpu_mem_used_bytes": ("GPU memory (GiB)", GIB),
    "power_w": ("GPU power (W)", 1),
    "sm_clock_mhz": ("GPU clock (MHz)", 1),
}
"""Column of `telemetry`, in the order of `_SAMPLES` -> its name, and what it is divided by."""

PHASES = ("import", "rendezvous", "build", "trace", "warmup")
"""Those before the first timed iteration, as `ranks` times them, without a gap between them."""

_PHASE_COLOURS = {
    "import": "#6b7280",
    "rendezvous": "#be185d",
    "build": "#0891b2",
    "trace": "#d97706",
    "warmup": "#7c3aed",
    "timed": "#059669",
}
_LINE_COLOURS = ("#2563eb", "#d97706", "#059669", "#be185d", "#7c3aed", "#0891b2", "#6b7280", "#a16207")

_PHASES = """
select ranks.* exclude (run_id), (
    select min(t_start_ns) from raw_iters where raw_iters.run_id = ranks.run_id and not warmup
        and (raw_iters.rank = ranks.rank or ranks.num_devices = 0)
) as timed_ns, (
    select max(t_start_ns + duration_s * 1e9) from raw_iters where raw_iters.run_id = ranks.run_id
) as end_ns
from ranks where run_id = ? order by rank limit 1
"""

_SPAN = """
select min(t_ns), max(t_ns), max(samples) from (
    select t_ns, count(*) over (partition by rank, gpu_uuid) as samples from raw_telemetry where run_id = ?
)
"""

_SAMPLES = """
with lines as (
    select *, dense_rank() over (partition by rank, gpu_uuid is null order by gpu_uuid) - 1 as gpu
    from raw_telemetry where run_id = ?
)
select rank, case when gpu_uuid is not null then gpu end as gpu, ((t_ns - ?) / ?)::bigint as bin,
    avg(cpu_pct), max(rss_bytes), avg(gpu_util_pct), max(gpu_mem_used_bytes), avg(power_w), avg(sm_clock_mhz)
from lines group by all order by rank, gpu, bin
"""


@dataclass(frozen=True)
class Phase:
    """What rank 0 did, in seconds from the first of its phases."""

    name: str
    start_s: float
    end_s: float


def phases(row: Mapping[Any, Any]) -> tuple[int, list[Phase]]:
    """(when the first known phase began, ns; the phases) of rank 0's row with its `timed_ns` and `end_ns`.

    A rank enters `timed` right before its first timed iteration, and each phase where the one before ends, so the start
    of that iteration dates them all. Processes forked from one that had loaded TensorFlow do not know how long that
    took: theirs begin later.
    """
    durations: list[tuple[str, float]] = []
    for name in reversed(PHASES):
        duration = row[f"{name}_s"]
        if duration is None:
            break
        durations.insert(0, (name, duration))
    before_s = sum(duration for _, duration in durations)
    timed_s = row["timed_s"] or (row["end_ns"] - row["timed_ns"]) / SECOND
    edges = [0.0]
    for _, duration in (*durations, ("timed", timed_s)):
        edges.append(edges[-1] + duration)
    names = [*(name for name, _ in durations), "timed"]
    found = [Phase(name, start, end) for name, (start, end) in zip(names, pairwise(edges), strict=True)]
    return round(row["timed_ns"] - before_s * SECOND), found


def plot(results: Results, shown: Shown) -> Plot | None:
    """All metrics over time, one below the other. None for a run without timed iterations or samples."""
    frame = results.tables.query(_PHASES, shown.run_id).astype(object)
    rows = frame.where(frame.notna(), None).to_dict("records")
    ((first_ns, last_ns, samples),) = results.tables.rows(_SPAN, shown.run_id)
    if not rows or rows[0]["timed_ns"] is None or first_ns is None:
        return None
    origin_ns, found = phases(rows[0])
    width_ns = max(1, (last_ns - first_ns) / min(MOST_POINTS - 1, max(1, samples - 1)))
    lines = _lines(results, shown.run_id, first_ns, width_ns)
    start_s, width_s = (first_ns - origin_ns) / SECOND, width_ns / SECOND
    drawn = [name for name in METRICS if lines[name]]
    places = {name: _domain(index, len(drawn)) for index, name in enumerate(drawn)}
    data = [_phase_bar(phase) for phase in found]
    colours: dict[str, str] = {}
    for index, name in enumerate(drawn):
        data += _traces(lines[name], METRICS[name], f"y{index + 2}", start_s=start_s, width_s=width_s, colours=colours)
    notes = [f"{shown.title}: seconds from the start of its {found[0].name} phase; phases are those of rank 0."]
    if any(len(lines[name]) > MOST_LINES for name in drawn):
        notes.append("More lines than can be told apart: the least, the median and the most of all.")
    return Plot(
        title="Telemetry",
        data=data,
        layout=_stacked(found, places),
        notes=[*notes, *_left_out(lines, shown)],
        wide=True,
    )


Samples = dict[int, float]
"""Bin of time -> value."""


def _lines(results: Results, run_id: str, first_ns: int, width_ns: float) -> dict[str, dict[str, Samples]]:
    """Metric -> line -> its samples."""
    lines: dict[str, dict[str, Samples]] = {name: defaultdict(dict) for name in METRICS}
    for rank, gpu, place, *values in results.tables.rows(_SAMPLES, run_id, first_ns, width_ns):
        who = f"rank {rank}" if gpu is None else f"rank {rank} GPU {gpu}"
        for (name, (_, unit)), value in zip(METRICS.items(), values, strict=True):
            if value is not None:
                lines[name][who][place] = value / unit
    return lines


def _traces(
    lines: Mapping[str, Samples],
    metric: tuple[str, int],
    axis: str,
    *,
    start_s: float,
    width_s: float,
    colours: dict[str, str],
) -> list[Trace]:
    """`colours` holds the lines that the legend has already, and takes the others."""
    if len(lines) > MOST_LINES:
        bins = sorted({place for line in lines.values() for place in line})
        columns = {place: [line[place] for line in lines.values() if place in line] for place in bins}
        lines = {
            name: {place: of(values) for place, values in columns.items()}
            for name, of in (("least", min), ("median", median), ("most", max))
        }
    most = max(place for line in lines.values() for place in line)
    traces: list[Trace] = []
    for name, line in lines.items():
        known = name in colours
        colour = colours.setdefault(name, _LINE_COLOURS[len(colours) % len(_LINE_COLOURS)])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "meta": {"quantity": metric[0]},
                "yaxis": axis,
                "x0": short(start_s),
                "dx": short(width_s),
                "y": shorts(line.get(place) for place in range(most + 1)),
                "connectgaps": True,
                "legendgroup": name,
                "showlegend": not known,
                "line": {"color": colour, "width": 1.5},
            }
        )
    return traces


def _phase_bar(phase: Phase) -> Trace:
    length = phase.end_s - phase.start_s
    return {
        "type": "bar",
        "orientation": "h",
        "name": phase.name,
        "y": ["phase"],
        "x": [short(length)],
        "base": [short(phase.start_s)],
        "marker": {"color": _PHASE_COLOURS[phase.name]},
        "showlegend": False,
        "text": [phase.name],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "hoverinfo": "text",
        "hovertext": [f"{phase.name}: {length:.4g} s"],
        "meta": {"quantity": "phase (s, from low)"},
    }


_METRIC_PX, _STRIP_PX = 110, 22
"""Heights of a metric's plot and of the strip that names the phases."""


def _domain(index: int, count: int) -> list[float]:
    whole = _METRIC_PX * count + _STRIP_PX
    top = (_METRIC_PX * (count - index) - 8) / whole
    return [round(_METRIC_PX * (count - index - 1) / whole, 4), round(top, 4)]


def _stacked(found: Sequence[Phase], places: Mapping[str, list[float]]) -> dict[str, Any]:
    whole = _METRIC_PX * len(places) + _STRIP_PX
    margin = {"l": 60, "r": 10, "t": 60, "b": 50}
    drawn = layout("s", "") | {"height": whole + margin["t"] + margin["b"], "margin": margin, "barmode": "overlay"}
    # A phase too short for its name is named by the mouse.
    drawn["uniformtext"] = {"mode": "hide", "minsize": 9}
    drawn["yaxis"] = {
        "domain": [1 - _STRIP_PX / whole, 1],
        "showticklabels": False,
        "fixedrange": True,
        "showgrid": False,
    }
    # Below the lowest plot: time is the same for all.
    drawn["xaxis"] |= {"anchor": f"y{len(places) + 1}"}
    for index, (name, domain) in enumerate(places.items()):
        title = {"text": METRICS[name][0].replace(" (", "<br>("), "font": {"size": 11}}
        drawn[f"yaxis{index + 2}"] = {"domain": domain, "title": title, "rangemode": "tozero", "nticks": 4}
    drawn["shapes"] = [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": short(phase.start_s),
            "x1": short(phase.end_s),
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": _PHASE_COLOURS[phase.name],
            "opacity": 0.12,
            "layer": "below",
        }
        for phase in found
    ]
    return drawn


def _left_out(lines: Mapping[str, Mapping[str, Samples]], shown: Shown) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, (title, _) in METRICS.items():
        if not lines[name]:
            stand_in = "gpu_mem_used_bytes" if name != "cpu_pct" else name
            why = shown.reasons.get(name) or shown.reasons.get(stand_in) or "not recorded"
            reasons.setdefault(why, []).append(title.partition(" (")[0])
    return [f"Left out: {', '.join(names)} ({why})." for why, names in reasons.items()]
