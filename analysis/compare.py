"""`python -m analysis.compare A B [C ...]`: side by side by configuration, and what changed between them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional, arg

from analysis.command import console, name_skipped, say
from analysis.errors import AnalysisError
from analysis.options import Selection, Words
from results.command_line import perform
from results.text import printable

if TYPE_CHECKING:
    from analysis.metrics import Metric
    from analysis.sides import Pairs, Side
    from analysis.stats import Interval


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare sets of runs: ratios to the first, with intervals."""

    sides: Positional[Annotated[tuple[str, ...], arg(metavar="A B [C ...]")]]
    """Each a directory, an experiment, a label, a run id or a baseline; experiment:NAME, label:NAME, run:ID and
    baseline:NAME where one name is several of these."""
    metric: Words = ()
    """A figure to compare, images_per_s without any; a wrong name lists all."""
    across: Words = ()
    """A field in which configurations may differ and still be compared: device_name, strategy, ..."""
    baselines_dir: Path = Path("results/baselines")
    """Where baselines are kept [path]."""
    selection: OmitArgPrefixes[Selection] = field(default_factory=Selection)


def compare(options: Options) -> int:
    """Prints a table for each metric and what changed. Returns 0, or 3 when files had to be left out."""
    from analysis import sides
    from analysis.load import trials_left_out
    from analysis.metrics import metric_named, why_none
    from analysis.provenance import changes, told
    from analysis.scaling import RATE

    if len({*options.sides}) < len(options.sides) or len(options.sides) < 2:  # noqa: PLR2004
        raise AnalysisError("name two or more different sides: A B [C ...]")
    metrics = [metric_named(name) for name in options.metric or (RATE,)]
    names = [metric.name for metric in metrics]
    loaded = sides.load(options.sides, options.selection, options.baselines_dir, metrics=names, across=options.across)
    first, *others = loaded.sides
    compared = [sides.matched(first, other, options.across) for other in others]
    for other, pairs in zip(others, compared, strict=True):
        for metric in metrics:
            table = _table(metric, first, other, pairs)
            if not table.row_count:
                raise AnalysisError(f"no configuration has {metric.name} on both sides{why_none(metric)}")
            console().print(table)
            for line in _without(metric, first, other, pairs):
                say(line)
        changed = changes(first.machines, other.machines)
        differ = "; ".join(filter(None, (told(changed), sides.other_load(first, other))))
        say(f"{first.name} -> {other.name}: {differ or 'nothing that is recorded changed'}")
        if crossed := sides.crossed(pairs, options.across):
            say(f"compared across {crossed}")
        if any(found and sides.timed_otherwise(one, found) for one, found in pairs):
            say("between measurement versions, ratios hold also what TrainScale changed in what it times")
        met = {found.key for _, found in pairs if found}
        for one, found in pairs:
            if not found:
                say(f"only in {first.name}: {one.title}")
        for one in other.configurations:
            if one.key not in met:
                say(f"only in {other.name}: {one.title}")
        print()
    print("Geometric means over runs, and their ratios with intervals, which hold together with 95% in each table.")
    print("'Not significant': the interval includes no change.")
    if loaded.trials:
        print(trials_left_out(loaded.trials))
    return name_skipped("analysis.compare", loaded.skipped)


def _table(metric: Metric, first: Side, second: Side, pairs: Pairs) -> Table:
    """A row for each configuration of which both sides have the metric."""
    from analysis.samples import samples
    from analysis.stats import LEVEL, corrected

    ours, theirs = samples(first.configurations, metric), samples(second.configurations, metric)
    matches = [(one, other) for one, other in pairs if other and one.key in ours and other.key in theirs]
    both = [(one, ours[one.key], theirs[other.key]) for one, other in matches]
    table = Table(title=metric.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("configuration")
    for heading in (first.name, second.name):
        table.add_column(escape(printable(heading)), justify="right")
    table.add_column("ratio", min_width=len("not significant (0.000 to 0.000)"))
    for one, mine, other in both:
        change = other.over(mine, corrected(LEVEL, len(both)))
        before, after = (metric.text(each.value().value) for each in (mine, other))
        table.add_row(escape(printable(one.title)), before, after, _told(change))
    return table


def _without(metric: Metric, first: Side, second: Side, pairs: Pairs) -> Iterator[str]:
    """A line for each side on which a configuration of both lacks the metric; the base case has no efficiency of its
    own and is not told of."""
    from analysis.metrics import EFFICIENCY
    from analysis.samples import samples
    from analysis.scaling import BASE_STRATEGY

    known = [samples(side.configurations, metric) for side in (first, second)]
    for pair in pairs:
        for side, values, one in zip((first, second), known, pair, strict=True):
            by_itself = metric.name == EFFICIENCY and pair[0].setup["strategy"] == BASE_STRATEGY
            if pair[1] and one and one.key not in values and not by_itself:
                why = f" ({one.failures[-1]})" if one.failures else ""
                yield f"no {metric.name} in {side.name}: {one.title}{why}"


def _told(change: Interval) -> str:
    if change.low is None or change.high is None:
        return f"{change.value:.3f} (one run has no interval)"
    if not change.excludes(1):
        return f"not significant ({change.low:.3f} to {change.high:.3f})"
    return f"{change.value:.3f} ({change.low:.3f} to {change.high:.3f})"


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 compared, 2 nothing to compare, 3 files were left out."""
    return perform("analysis.compare", Options, argv, compare)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
