"""What is compared: sets of runs with names, and which of their configurations are the same.

A side is named by a directory, `experiment:NAME`, `label:NAME`, `run:ID`, `baseline:NAME`, or by the bare name where
only one of these has it. Names may hold wildcards: 'nightly-2026-11-*'.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import baselines
from analysis.configurations import Configuration, configurations, differing
from analysis.errors import AnalysisError
from analysis.files import Skipped
from analysis.load import Results, unknown
from analysis.options import Selection
from results.schema import COMPARABLE_FIELDS

_KINDS = {"experiment": "experiment", "label": "label", "run": "run_id"}
"""What a name can be of -> the column that holds it."""


@dataclass(frozen=True)
class Side:
    """Runs with a name."""

    name: str
    runs: pd.DataFrame
    """As `analysis.load.Results.runs`."""
    configurations: Sequence[Configuration]


Pairs = Sequence[tuple[Configuration, Configuration | None]]
"""Each configuration of a side with its like of another."""


@dataclass(frozen=True)
class Sides:
    """All sides of a comparison, in the order of their names, and the files that could not be read."""

    sides: Sequence[Side]
    skipped: Sequence[Skipped]


def load(
    names: Sequence[str], selection: Selection, baselines_dir: Path, *, metrics: Sequence[str] | None = None
) -> Sides:
    """The runs behind each name, with all figures or those that `metrics` need.

    Raises AnalysisError for a name without runs, of different runs, or of shared ones.
    """
    step_times = metrics is None or any(name.startswith("step_time") for name in metrics)
    frames: dict[str, pd.DataFrame] = {}
    skipped: list[Skipped] = []
    stored = [name for name in names if not (_is_directory(name) or baselines.exists(name, baselines_dir))]
    for name in dict.fromkeys(names):
        if _is_directory(name):
            results = Results(replace(selection, results_dir=(name,)), step_times=step_times)
            frames[name] = results.runs
            skipped += results.skipped
        elif name not in stored:
            frames[name] = baselines.read(name, baselines_dir, selection)
    if stored:
        named: dict[str, set[str]] = {}

        def keep(known: pd.DataFrame) -> set[str]:
            named.update({name: _behind(name, known) for name in stored})
            return set().union(*named.values())

        results = Results(selection, keep, step_times=step_times)
        skipped += results.skipped
        for name, run_ids in named.items():
            chosen = [run_id in run_ids for run_id in results.runs["run_id"].tolist()]
            frames[name] = results.runs[chosen].reset_index(drop=True)
    seen: dict[str, str] = {}
    for name, runs in frames.items():
        if runs.empty:
            raise AnalysisError(f"no run of {name!r} fits all that was asked for")
        for run_id in runs["run_id"]:
            if seen.setdefault(run_id, name) != name:
                raise AnalysisError(f"{seen[run_id]!r} and {name!r} share run {run_id}: name sets without common runs")
    return Sides([Side(name, frames[name], configurations(frames[name])) for name in names], skipped)


def matched(first: Side, second: Side, across: Sequence[str]) -> Pairs:
    """Each configuration of the first side with the one of the second that equals it in all COMPARABLE_FIELDS but
    `across`. Raises AnalysisError for an unknown field, when a side has several that would be one, or none fits."""
    for field in across:
        if field not in COMPARABLE_FIELDS:
            raise AnalysisError(f"--across {field}: no such field. There are: {', '.join(COMPARABLE_FIELDS)}")
    ours, theirs = _by_key(first, across), _by_key(second, across)
    if not ours.keys() & theirs.keys():
        raise AnalysisError(
            f"{first.name!r} and {second.name!r} have no configuration in common: {_why(first, second)}"
        )
    return [(one, theirs.get(key)) for key, one in ours.items()]


def nearest(one: Configuration, among: Iterable[Configuration]) -> dict[str, tuple[Any, Any]]:
    """The fields in which a configuration differs from the one that is most like it; empty when there is none."""
    return min((differing(one.setup, other.setup) for other in among), key=len, default={})


def told(fields: dict[str, tuple[Any, Any]]) -> str:
    """Differing fields in a line."""
    return ", ".join(f"{name} ({_shown(ours)} and {_shown(theirs)})" for name, (ours, theirs) in fields.items())


def _why(first: Side, second: Side) -> str:
    fields = min((nearest(one, second.configurations) for one in first.configurations), key=len)
    flags = " ".join(f"--across={field}" for field in fields)
    return f"the nearest differ in {told(fields)}. To compare them all the same, give {flags}"


def _by_key(side: Side, across: Sequence[str]) -> dict[tuple[Any, ...], Configuration]:
    found: dict[tuple[Any, ...], Configuration] = {}
    for one in side.configurations:
        key = tuple(one.setup[field] for field in COMPARABLE_FIELDS if field not in across)
        if key in found:
            fields = told(differing(found[key].setup, one.setup))
            raise AnalysisError(
                f"{side.name!r} holds runs that may not be pooled: they differ in {fields}; "
                "choose with --where or leave out that --across"
            )
        found[key] = one
    return found


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value) or "none"


def _is_directory(name: str) -> bool:
    return ":" not in name and Path(name, "runs").is_dir()


def _behind(name: str, known: pd.DataFrame) -> set[str]:
    """run_ids of the runs that a name means; `known` has run_id, experiment and label."""
    kind, colon, pattern = name.partition(":")
    kinds = {kind: _KINDS[kind]} if colon and kind in _KINDS else _KINDS
    pattern = pattern if kinds is not _KINDS else name
    found: dict[str, set[str]] = {}
    for of, column in kinds.items():
        names = [value for value in known[column].dropna().unique() if fnmatch.fnmatchcase(value, pattern)]
        if names:
            found[of] = {*known.loc[known[column].isin(names), "run_id"]}
    if not found:
        column = next(iter(kinds.values())) if kinds is not _KINDS else "experiment"
        raise unknown(" or ".join(kinds), pattern, known[column].dropna().unique())
    if len({frozenset(run_ids) for run_ids in found.values()}) > 1:
        ways = " or ".join(f"{of}:{pattern}" for of in found)
        raise AnalysisError(f"{name!r} is the name of different runs: say {ways}")
    return next(iter(found.values()))
