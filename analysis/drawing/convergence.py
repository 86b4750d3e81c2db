"""What the runs by epochs have learned, and when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from analysis.drawing.plots import IDEAL_COLOUR, Line, Plot, Trace, layout, point_name
from analysis.load import Results
from analysis.metrics import METRICS
from analysis.text import inert, shorts
from analysis.words import count

_CURVES = """
with chosen_keys as (select unnest(?::varchar[]) as run_id, unnest(?::varchar[]) as key)
select key, epoch, exp(avg(ln(train_s))) as train_s, avg(accuracy) as accuracy, min(accuracy) as low,
    max(accuracy) as high, count(*) as runs
from evals join chosen_keys using (run_id) where train_s > 0 group by key, epoch order by key, epoch
"""

Point = tuple[int, float, float, float, float, int]
"""Epoch, training time, accuracy: mean, lowest and highest, runs."""


def plot(results: Results, found: Sequence[Line]) -> Plot | None:
    """Test accuracy over training time, a line for each configuration; None where no run was evaluated."""
    curves = _curves(results, found)
    data: list[Trace] = []
    for line in found:
        for one in line.points:
            points = curves.get(one.configuration.key, [])
            if points:
                data.append(_trace(line, point_name(line, one), points))
    if not data:
        return None
    longest = max(points[-1][1] for points in curves.values())
    setups = [one.configuration.setup for line in found for one in line.points]
    for target in sorted({setup["target_accuracy"] for setup in setups} - {None}):
        data.append(_target(target, longest))
    drawn = layout("training time (s)", "test accuracy")
    drawn["yaxis"]["tickformat"] = ".0%"
    note = "A point is the end of an epoch: mean accuracy and geometric mean of the training time over runs."
    return Plot(title="Accuracy over training time", data=data, layout=drawn, notes=[note])


def _curves(results: Results, found: Sequence[Line]) -> dict[str, list[Point]]:
    """Configuration.key -> its evaluations by epoch."""
    configurations = [one.configuration for line in found for one in line.points]
    pairs = [(run_id, one.key) for one in configurations for run_id in one.run_ids]
    curves: dict[str, list[Point]] = defaultdict(list)
    if pairs:
        run_ids, keys = zip(*pairs, strict=True)
        for key, *point in results.tables.rows(_CURVES, list(run_ids), list(keys)):
            epoch, train_s, accuracy, low, high, runs = point
            curves[key].append((epoch, train_s, accuracy, low, high, runs))
    return curves


def _trace(line: Line, name: str, points: Sequence[Point]) -> Trace:
    percent, seconds = METRICS["final_accuracy"].text, METRICS["time_to_accuracy_s"].text
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "hoverinfo": "text",
        "hovertext": [
            f"{name}<br>epoch {epoch}: {percent(accuracy)} [{percent(low)}, {percent(high)}] after {seconds(train_s)} "
            f"({count(runs, 'run')})"
            for epoch, train_s, accuracy, low, high, runs in points
        ],
        "line": {"color": line.colour, "dash": line.dash},
        "x": shorts(point[1] for point in points),
        "y": shorts(point[2] for point in points),
    }


def _target(target: Any, longest_s: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": inert(f"target {target:g}"),
        "hoverinfo": "skip",
        "line": {"color": IDEAL_COLOUR, "dash": "dash"},
        "x": shorts([0.0, longest_s]),
        "y": [target, target],
    }
