"""References that live in the repository: the runs behind a good state, small enough to commit and to review.

A baseline keeps each run's figures and settings, not its iterations, as JSON under results/baselines/.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from analysis import earlier
from analysis.configurations import FIGURES, SETUP
from analysis.errors import AnalysisError, NewerSchema
from results.schema import SCHEMA_VERSION
from results.writing import replacing

_PREFIX = "baseline:"
_IDENTITY = ("run_id", "experiment", "label", "status", "error", "comparability_key")
_COLUMNS = (*_IDENTITY, *SETUP, *FIGURES)


def is_one(name: str) -> bool:
    """Whether a side's name says that it is a baseline's."""
    return name.startswith(_PREFIX)


def exists(name: str, folder: Path) -> bool:
    """Whether there is a baseline of this name."""
    return re.fullmatch(r"[\w.-]+", name) is not None and _path(name, folder).is_file()


def known(folder: Path) -> list[str]:
    """The names of all baselines."""
    return sorted(path.stem for path in folder.glob("[!.]*.json"))


def save(name: str, runs: pd.DataFrame, folder: Path) -> Path:
    """Writes `analysis.load.Results.runs` as a baseline, in place of one of that name. Raises AnalysisError."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise AnalysisError(f"--save-baseline {name!r}: a name of letters, digits, '.', '-' and '_'")
    machines = list(dict.fromkeys(runs["machine"]))
    rows = runs[list(_COLUMNS)].astype(object)
    rows = rows.where(rows.notna(), None)
    rows["started_at"] = [f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in runs["started_at"]]
    rows["machine"] = [machines.index(machine) for machine in runs["machine"]]
    held = {
        "schema_version": SCHEMA_VERSION,
        "saved_at": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        "machines": [json.loads(machine) for machine in machines],
        "runs": [{key: value for key, value in row.items() if value is not None} for row in rows.to_dict("records")],
    }
    path = _path(name, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        new.write_text(json.dumps(held, indent=1) + "\n")
    return path


def read(name: str, folder: Path) -> pd.DataFrame:
    """The runs of a baseline as `analysis.load.Results.runs` has them.

    Raises AnalysisError for a file that is none, NewerSchema for one of a later TrainScale.
    """
    path = _path(name.removeprefix(_PREFIX), folder)
    try:
        held = json.loads(path.read_text())
        if held["schema_version"] > SCHEMA_VERSION:
            raise NewerSchema(
                f"baseline {str(path)!r} has schema {held['schema_version']}; this TrainScale knows {SCHEMA_VERSION} "
                "and earlier: update it, or save the baseline anew"
            )
        rows = held["runs"]
        rows = [earlier.fields(held["schema_version"], row) for row in rows]
        runs = pd.DataFrame(rows, columns=[*_COLUMNS, "started_at", "machine"])
        machines = [earlier.of_baseline(held["schema_version"], machine) for machine in held["machines"]]
        runs["machine"] = [json.dumps(machines[number]) for number in runs["machine"]]
        runs["variables"] = runs["variables"].astype(object).where(runs["variables"].notna(), "")
        runs["onednn"] = runs["onednn"].astype(object).where(runs["onednn"].notna(), None)
        runs["started_at"] = pd.to_datetime(runs["started_at"])
        runs[list(FIGURES)] = runs[list(FIGURES)].apply(pd.to_numeric)
    except FileNotFoundError:
        there = ", ".join(known(folder)) or "none"
        raise AnalysisError(f"no baseline {path.stem!r} in {str(folder)!r}. There are: {there}") from None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise AnalysisError(f"{str(path)!r} is no baseline ({error!r}): save it anew with --save-baseline") from None
    return runs


def _path(name: str, folder: Path) -> Path:
    return folder / f"{name}.json"
