"""What every command of the analysis is told: which runs to read. Light, so that --help answers at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from analysis.errors import AnalysisError

Words = Annotated[tuple[str, ...], UseAppendAction]
"""A flag that may be given several times."""

RESULTS_DIR = "results/data"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which runs to read. Names may hold the wildcards of a shell: 'nightly-*'."""

    results_dir: Words = ()
    """A directory that holds the tables, or a pattern for several [path]. Without any: results/data."""
    experiment: Words = ()
    """Only runs of this experiment."""
    label: Words = ()
    """Only runs with this label."""
    strategy: Words = ()
    """Only runs of this strategy."""
    model: Words = ()
    """Only runs of this model."""
    since: Annotated[str | None, arg(metavar="YYYY-MM-DD")] = None
    """Only runs that started on this day (UTC) or later."""
    until: Annotated[str | None, arg(metavar="YYYY-MM-DD")] = None
    """Only runs that started on this day (UTC) or earlier."""
    trials: bool = False
    """Also runs that only tried something: the trials of --find-max-batch."""
    where: str | None = None
    """Only runs for which this DuckDB expression over the columns of a run and its figures is true, for example
    "num_devices >= 8 and images_per_s > 1000". provenance, config and null_reasons are not among them; of the first,
    machine is the part that reports show, as JSON: "machine->>'hostname' = 'node07'"."""

    NAMES = ("experiment", "label", "strategy", "model")


def share(text: str) -> float:
    """Parse --threshold: '5%' or '0.05' is 0.05. Raises AnalysisError."""
    number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", text.strip())
    value = float(number[1]) / (100 if number[2] else 1) if number else 0.0
    if not 0 < value < 1:
        raise AnalysisError(f"--threshold is {text!r}: give a share between 0 and 1, as 5% or 0.05")
    return value
