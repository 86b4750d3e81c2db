"""The run that stands for a workload, and what each of its ranks needed, step by step.

It is the newest run of the configuration with most ranks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.configurations import Configuration
from analysis.drawing.plots import Plot, layout
from analysis.labels import devices
from analysis.load import Results
from analysis.scaling import RATE, WITHOUT_EXCHANGE, Standing
from analysis.text import inert, shorts
from results.text import printable

MOST_RANKS, MOST_STEPS = 64, 100
"""Cells of a heat map."""

_STEPS = """
with own as (
    -- Strategies without common steps count iterations over all ranks, so each rank's own are numbered here.
    select run_id, rank, num_batches, duration_s, compute_s + data_wait_s as own_s,
        row_number() over (partition by run_id, rank order by iter) - 1 as place,
        dense_rank() over (partition by run_id order by rank) - 1 as row
    from raw_iters where not warmup
), bounds as (
    select run_id, max(place) + 1 as places, max(row) + 1 as rows, count(own_s) = count(*) as split
    from own group by run_id
)
select run_id, row * least(rows, ?) // rows as y, place * least(places, ?) // places as x,
    1e3 * sum(own_s) / sum(num_batches) as own_ms, 1e3 * sum(duration_s) / sum(num_batches) as whole_ms,
    any_value(split) as split, min(rank) as first_rank, max(rank) as last_rank, min(place) as first_place
from own join bounds using (run_id) group by all order by y, x
"""

_HOSTS = "select run_id, rank, hostname from ranks where run_id in (select run_id from raw_runs)"
_HOST_LETTERS = 24

_REASONS = "select run_id, cast(to_json(null_reasons) as varchar) from raw_runs"


@dataclass(frozen=True)
class Shown:
    """A run that stands for its workload."""

    run_id: str
    title: str
    synchronous: bool
    reasons: Mapping[str, str]
    """Column -> why it is null."""


def choose(results: Results, workloads: Sequence[tuple[str, list[Standing]]]) -> dict[str, Shown]:
    """Workload -> its run; reads what was recorded of these runs, so the other functions can be asked of them."""
    picked = {}
    for name, group in workloads:
        ran = [one.configuration for one in group if one.configuration.samples[RATE]]
        if ran:
            # Where nothing is exchanged nobody waits for a straggler.
            picked[name] = max(ran, key=lambda one: (one.setup["num_processes"] or 0, _exchanges(one), one.run_ids[-1]))
    ids = [one.run_ids[-1] for one in picked.values()]
    for table in ("runs", "iters", "telemetry"):
        results.read_raw(table, ids or [""])
    reasons = {run_id: json.loads(text) if text else {} for run_id, text in results.tables.rows(_REASONS)}
    return {
        name: Shown(
            run_id=one.run_ids[-1],
            title=printable(f"{one.series}, {devices(one.setup)}, run {one.run_ids[-1]}"),
            synchronous=bool(one.setup["synchronous"]),
            reasons=reasons.get(one.run_ids[-1], {}),
        )
        for name, one in picked.items()
    }


def _exchanges(one: Configuration) -> bool:
    return bool(one.setup["strategy"] != WITHOUT_EXCHANGE)


class _Cell(NamedTuple):
    y: int
    x: int
    own_ms: float | None
    whole_ms: float
    split: bool
    """Of all the run's iterations it is known how long they computed."""
    first_rank: int
    last_rank: int
    first_place: int


class RankSteps:
    """The heat maps of the chosen runs."""

    def __init__(self, results: Results) -> None:
        self._cells: dict[str, list[_Cell]] = defaultdict(list)
        for run_id, *cell in results.tables.rows(_STEPS, MOST_RANKS, MOST_STEPS):
            self._cells[run_id].append(_Cell(*cell))
        self._hosts = {(run_id, rank): host for run_id, rank, host in results.tables.rows(_HOSTS) if host}

    def plot(self, shown: Shown) -> Plot:
        """Ranks x iterations."""
        cells = self._cells[shown.run_id]
        own = shown.synchronous and any(cell.split for cell in cells)
        ranks = {cell.y: self._rank(shown.run_id, cell) for cell in cells}
        steps = {cell.x: cell.first_place for cell in cells}
        values = {(cell.y, cell.x): cell.own_ms if own else cell.whole_ms for cell in cells}
        data = {
            "type": "heatmap",
            "name": "step",
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": "ms"}},
            "x": [steps[x] for x in sorted(steps)],
            "y": [ranks[y] for y in sorted(ranks)],
            "z": [shorts(values.get((y, x)) for x in sorted(steps)) for y in sorted(ranks)],
        }
        drawn = layout("timed iteration", "") | {"height": max(240, min(720, 110 + 18 * len(ranks)))}
        drawn["yaxis"] = {"autorange": "reversed", "type": "category", "automargin": True}
        what = (
            "what each rank needed by itself, computing and waiting for data" if own else "the whole step of each rank"
        )
        alone = own or not shown.synchronous or len(ranks) == 1
        why = "" if alone else " Waiting for the others is in it: it was not recorded apart."
        notes = [f"{shown.title}: {what}, ms a step.{why}"]
        if any(cell.first_rank != cell.last_rank for cell in cells) or len(steps) == MOST_STEPS:
            notes.append("A cell is the mean over its ranks and iterations.")
        return Plot(title="Steps of each rank", data=[data], layout=drawn, notes=notes, wide=True)

    def _rank(self, run_id: str, cell: _Cell) -> str:
        ranks = range(cell.first_rank, cell.last_rank + 1)
        hosts = sorted({host for rank in ranks if (host := self._hosts.get((run_id, rank)))})
        name = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
        more = f" +{len(hosts) - 1}" if len(hosts) > 1 else ""
        return inert(f"{name} {hosts[0][:_HOST_LETTERS]}{more}" if hosts else name)
