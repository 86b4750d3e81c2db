"""What is compared: sets of runs with names, and which of their configurations are the same.

A side is named by a directory (with a slash in it), `experiment:NAME`, `label:NAME`, `run:ID`, `baseline:NAME`, or by
the bare name where only one of these has it. Names may hold wildcards: 'nightly-2026-11-*'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import baselines, earlier, files
from analysis.configurations import OTHER_LOAD, Configuration, configurations, differing, may_be
from analysis.errors import AnalysisError
from analysis.files import Skipped
from analysis.load import Results, day, holding, means, unknown
from analysis.options import RESULTS_DIR, Selection
from analysis.tables import Tables
from results.schema import COMPARABLE_FIELDS

_KINDS = {"experiment": "experiment", "label": "label", "run": "run_id"}
"""What a name can be of -> the column that holds it."""

MEASUREMENT_VERSION = "measurement_version"

_LITTLE_LOAD = 0.2
"""Cores that the system's own services use now and then."""


@dataclass(frozen=True)
class Side:
    """Runs with a name."""

    name: str
    runs: pd.DataFrame
    """As `analysis.load.Results.runs`."""
    configurations: Sequence[Configuration]

    @property
    def machines(self) -> set[str]:
        """`Results.runs.machine` of the runs that are ok or, if none is, of the others, which may know less."""
        told = [one for one in self.configurations if one.run_ids] or self.configurations
        return set().union(*(one.machines for one in told))


Pairs = Sequence[tuple[Configuration, Configuration | None]]
"""Each configuration of a side with its like of another."""


@dataclass(frozen=True)
class Sides:
    """All sides of a comparison, in the order of their names, and the files that could not be read."""

    sides: Sequence[Side]
    skipped: Sequence[Skipped]
    trials: int = 0
    """Trials that were left out, as in `analysis.load.Results`."""


def load(
    names: Sequence[str],
    selection: Selection,
    baselines_dir: Path,
    *,
    metrics: Sequence[str] | None = None,
    across: Sequence[str] = (),
) -> Sides:
    """The runs behind each name, with all figures or those that `metrics` need, to be matched `across` fields.

    Raises AnalysisError for a name without runs, of different runs, or of shared ones.
    """
    needed = metrics is None or any(name.startswith("step_time") for name in metrics)
    step_times = needed or selection.where is not None
    frames: dict[str, pd.DataFrame] = {}
    skipped: list[Skipped] = []
    trials = 0
    stored = []
    for name in dict.fromkeys(names):
        if _is_directory(name):
            results = Results(replace(selection, results_dir=(name,)), step_times=step_times)
            frames[name] = results.runs
            skipped += results.skipped
            trials += results.trials
        elif baselines.is_one(name) or (baselines.exists(name, baselines_dir) and not _has_store(selection)):
            frames[name] = _fitting(baselines.read(name, baselines_dir), selection)
        else:
            stored.append(name)
    if stored:
        named: dict[str, set[str]] = {}

        def keep(known: pd.DataFrame) -> set[str]:
            named.update({name: _behind(name, known, baselines_dir) for name in stored})
            return set().union(*named.values())

        results = Results(selection, keep, step_times=step_times)
        skipped += results.skipped
        trials += results.trials
        for name, run_ids in named.items():
            if not run_ids:
                frames[name] = _fitting(baselines.read(name, baselines_dir), selection)
                continue
            chosen = [run_id in run_ids for run_id in results.runs["run_id"].tolist()]
            frames[name] = results.runs[chosen].reset_index(drop=True)
    _check(frames)
    earlier.settle([*frames.values()], by_recorded=False, across=across)
    return Sides([Side(name, frames[name], configurations(frames[name])) for name in names], skipped, trials)


def _check(frames: Mapping[str, pd.DataFrame]) -> None:
    seen: dict[str, str] = {}
    for name, runs in frames.items():
        if runs.empty:
            raise AnalysisError(f"no run of {name!r} fits all that was asked for")
        for run_id in runs["run_id"]:
            if seen.setdefault(run_id, name) != name:
                raise AnalysisError(f"{seen[run_id]!r} and {name!r} share run {run_id}: name sets without common runs")


def _fitting(runs: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """The runs of a baseline that fit all that was asked for, as those of a store must."""
    for column in Selection.NAMES:
        if patterns := getattr(selection, column):
            runs = runs[[means(str(name), patterns) for name in runs[column]]]
    started = runs["started_at"].dt.strftime("%Y-%m-%d")
    since, until = day("since", selection.since) or "", day("until", selection.until) or "9"
    runs = runs[(started >= since) & (started <= until)].reset_index(drop=True)
    return runs if selection.where is None or runs.empty else holding(Tables({}), runs, selection.where)


def matched(first: Side, second: Side, across: Sequence[str]) -> Pairs:
    """Each configuration of the first side with the one of the second that equals it in all COMPARABLE_FIELDS but
    `across`, or that failed and may have been it. Where there is none of the same measurement version, the one of the
    newest is taken, to be judged by `timed_otherwise`. Raises AnalysisError for an unknown field, when a side has
    several that would be one, or when nothing that ran on the second fits."""
    for field in across:
        if field not in COMPARABLE_FIELDS:
            raise AnalysisError(f"--across {field}: no such field. There are: {', '.join(COMPARABLE_FIELDS)}")
    ours, theirs = _by_key(first, across), _by_key(second, across)
    any_version = (*across, MEASUREMENT_VERSION)
    newest = {
        _key(one, any_version): one
        for one in sorted(theirs.values(), key=lambda one: one.setup[MEASUREMENT_VERSION] or 0)
    }
    pairs = [(one, theirs.get(key) or newest.get(_key(one, any_version))) for key, one in ours.items()]
    ran, reran = ([one for one in side.configurations if one.run_ids] for side in (first, second))
    if ran and reran and not any(other for _, other in pairs):
        why = _why(ran, reran, across)
        raise AnalysisError(f"{first.name!r} and {second.name!r} have no configuration in common: {why}")
    failed = [one for one in second.configurations if not one.run_ids]
    return [
        (one, other or next((each for each in failed if may_be(each, one, any_version)), None)) for one, other in pairs
    ]


def timed_otherwise(one: Configuration, other: Configuration) -> bool:
    """Whether the figures of two configurations are of two measurement versions: no change of the one against the
    other says anything about the machines."""
    return bool(one.setup[MEASUREMENT_VERSION] != other.setup[MEASUREMENT_VERSION])


def crossed(pairs: Pairs, across: Sequence[str]) -> str:
    """What the fields of `across`, and the measurement version if it differs, are on the two sides, in a line."""
    both = [(one.setup, other.setup) for one, other in pairs if other]
    upgraded = any(timed_otherwise(one, other) for one, other in pairs if other and other.run_ids)
    names = dict.fromkeys([*across, *([MEASUREMENT_VERSION] if upgraded else [])])
    columns = ((name, {_shown(a[name]) for a, _ in both}, {_shown(b[name]) for _, b in both}) for name in names)
    return "; ".join(
        f"{name}: {', '.join(sorted(ours))} -> {', '.join(sorted(theirs))}" for name, ours, theirs in columns
    )


def other_load(first: Side, second: Side) -> str:
    """What other processes used of the nodes while these runs were timed, in a line; empty where it was little or is
    not known."""
    most = [max((one.share(OTHER_LOAD) or 0.0 for one in side.configurations), default=0.0) for side in (first, second)]
    if max(most) < _LITTLE_LOAD:
        return ""
    return f"other processes on their nodes used up to {most[0]:.1f} -> {most[1]:.1f} cores (median of a configuration)"


def told(fields: dict[str, tuple[Any, Any]]) -> str:
    """Differing fields in a line."""
    return ", ".join(f"{name} ({_shown(ours)} and {_shown(theirs)})" for name, (ours, theirs) in fields.items())


def _why(first: Sequence[Configuration], second: Sequence[Configuration], across: Sequence[str]) -> str:
    pairs = ((one, other) for one in first for other in second)
    differ = [differing(one.setup, other.setup, (*across, MEASUREMENT_VERSION)) for one, other in pairs]
    fields = min(differ, key=len)
    flags = " ".join(f"--across={field}" for field in (*across, *fields))
    return f"the nearest differ in {told(fields)}. To compare them all the same, give {flags}"


def _by_key(side: Side, across: Sequence[str]) -> dict[tuple[Any, ...], Configuration]:
    found: dict[tuple[Any, ...], Configuration] = {}
    for one in side.configurations:
        key = _key(one, across)
        if key in found:
            fields = told(differing(found[key].setup, one.setup))
            raise AnalysisError(
                f"{side.name!r} holds runs that may not be pooled: they differ in {fields}; "
                "choose with --where or leave out that --across"
            )
        found[key] = one
    return found


def _key(one: Configuration, across: Sequence[str]) -> tuple[Any, ...]:
    return tuple(one.setup[field] for field in COMPARABLE_FIELDS if field not in across)


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value) or "none"


def _is_directory(name: str) -> bool:
    return "/" in name and Path(name, "runs").is_dir()


def _has_store(selection: Selection) -> bool:
    try:
        return bool(files.directories(selection.results_dir or (RESULTS_DIR,)))
    except AnalysisError:
        return False


def _behind(name: str, known: pd.DataFrame, baselines_dir: Path) -> set[str]:
    """run_ids of the runs that a name means, empty for that of a baseline; `known` has run_id, experiment, label."""
    kind, _, pattern = name.partition(":")
    kinds = {kind: _KINDS[kind]} if pattern and kind in _KINDS else _KINDS
    pattern = name if kinds is _KINDS else pattern
    found: dict[str, set[str]] = {}
    for of, column in kinds.items():
        names = {value for value in known[column].dropna().unique() if means(value, [pattern])}
        if names:
            found[of] = {run_id for run_id, value in zip(known["run_id"], known[column], strict=True) if value in names}
    saved = kinds is _KINDS and baselines.exists(name, baselines_dir)
    if len({frozenset(run_ids) for run_ids in found.values()}) + saved > 1:
        ways = " or ".join(f"{of}:{pattern}" for of in (*found, *(["baseline"] if saved else [])))
        raise AnalysisError(f"{name!r} is the name of different runs: say {ways}")
    if not found and not saved:
        columns = list(kinds.values()) if kinds is not _KINDS else ["experiment", "label"]
        there = [value for column in columns for value in known[column].dropna().unique()]
        also = baselines.known(baselines_dir) if kinds is _KINDS else []
        raise unknown(" or ".join([*kinds, *(["baseline"] if kinds is _KINDS else [])]), pattern, [*there, *also])
    return next(iter(found.values()), set())
