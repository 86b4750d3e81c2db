"""`python -m analysis.history`: a metric over time for each configuration, where it changed, and what changed there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from tyro.conf import OmitArgPrefixes, arg

from analysis.command import console, name_skipped
from analysis.errors import AnalysisError
from analysis.options import Selection, share
from results.command_line import perform
from results.exit_codes import ExitCode
from results.text import printable

if TYPE_CHECKING:
    from analysis.metrics import Metric
    from analysis.trends import Trend

PROG = "analysis.history"
HEADINGS = ("newest level", "configuration", "points", "level", "since", "before", "change")
TEXT_COLUMNS = 2
"""The first ones, which hold words."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Find where a metric changed over time. Exit 1 when the newest segment of a configuration is worse than the
    one before it, or when all its runs failed since.

    A point is what one experiment measured, however many runs that were. Where every night has the same experiment,
    each night is a point.
    """

    metric: str = "images_per_s"
    """The figure; a wrong name lists all."""
    threshold: Annotated[str, arg(metavar="SHARE")] = "1%"
    """Changes smaller than this are no change: 2%, or 0.02."""
    output: Path = Path("results/reports")
    """Folder for history.html [path]."""
    selection: OmitArgPrefixes[Selection] = field(default_factory=Selection)


def history(options: Options) -> int:
    """Prints the table, writes the page and returns the exit code."""
    from analysis.drawing.history_page import write
    from analysis.load import Results, trials_left_out
    from analysis.metrics import metric_named, why_none
    from analysis.trends import trends

    metric, threshold = metric_named(options.metric), share(options.threshold)
    results = Results(options.selection)
    found = trends(results.runs, metric, threshold)
    if not found:
        raise AnalysisError(f"no run has {metric.name}{why_none(metric)}")
    lines = [*told(found, metric), *filter(None, [trials_left_out(results.trials)])]
    console().print(_table(found, metric))
    print(*lines, sep="\n")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "history.html"
    write(found, metric, [HEADINGS, *(cells(trend, metric) for trend in found)], lines, path)
    print(f"Plots: {path.resolve()}")
    damaged = name_skipped(PROG, results.skipped)
    return ExitCode.REGRESSION if any(trend.worse or trend.failed_since for trend in found) else damaged


def told(found: Sequence[Trend], metric: Metric) -> list[str]:
    """A line for each change, newest first, and what a reader must know."""
    from analysis.changepoints import MIN_SEGMENT
    from analysis.provenance import told as attributed
    from analysis.trends import LARGE_STEP

    changes = sorted(
        ((change, trend) for trend in found for change in trend.changes), key=lambda pair: pair[0].at.started_at
    )
    lines = [
        f"{change.at.started_at:%Y-%m-%d} ({change.at.experiment}): {metric.name} of {trend.configuration.title} "
        f"{change.ratio - 1:+.1%}, {'worse' if change.worse else 'better'}; "
        f"{attributed(change.changed) or 'nothing that is recorded changed with it'}"
        for change, trend in reversed(changes)
    ]
    return [
        *(printable(line) for line in lines),
        f"A level has {MIN_SEGMENT} nights or more; how many more it takes to see a new one depends on how much nights "
        f"differ (docs/analysis.md). 'too few nights': even a step of {LARGE_STEP - 1:.0%} could not be seen.",
    ]


def cells(trend: Trend, metric: Metric) -> tuple[str, ...]:
    """A trend as text, in the order of HEADINGS."""
    last = trend.changes[-1] if trend.changes else None
    level = "too few nights" if trend.too_short else "steady" if last is None else "worse" if last.worse else "better"
    return (
        f"failed since {trend.failed_since:%Y-%m-%d}" if trend.failed_since else level,
        printable(trend.configuration.title),
        str(len(trend.points)),
        metric.text(trend.levels[-1]),
        f"{trend.points[trend.starts[-1]].started_at:%Y-%m-%d}",
        metric.text(trend.levels[-2]) if last else "-",
        f"{last.ratio - 1:+.1%}" if last else "-",
    )


def _table(found: Sequence[Trend], metric: Metric) -> Table:
    table = Table(title=f"{metric.title} over time", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index < TEXT_COLUMNS else "right")
    for trend in found:
        newest, *rest = cells(trend, metric)
        style = {"worse": "bold red", "better": "green"}.get(newest, "bold red" if trend.failed_since else "default")
        table.add_row(f"[{style}]{newest}[/]", *map(escape, rest))
    return table


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 steady or better, 1 worse or failing since, 2 usage, 3 files
    were left out."""
    return perform(PROG, Options, argv, history)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
