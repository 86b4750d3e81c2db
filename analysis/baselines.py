"""References that live in the repository: the runs behind a good state, small enough to commit and to review.

A baseline keeps each run's figures and settings, not its iterations, as JSON under results/baselines/.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from analysis.configurations import FIGURES, SETUP
from analysis.errors import AnalysisError, NewerSchema
from analysis.options import Selection
from results.schema import SCHEMA_VERSION

_PREFIX = "baseline:"
_IDENTITY = ("run_id", "experiment", "label", "status", "error", "comparability_key")
_COLUMNS = (*_IDENTITY, *SETUP, *FIGURES)


def exists(name: str, folder: Path) -> bool:
    """Whether a side's name means a baseline."""
    return name.startswith(_PREFIX) or (re.fullmatch(r"[\w.-]+", name) is not None and _path(name, folder).is_file())


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(held, indent=1) + "\n")
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read(name: str, folder: Path, selection: Selection) -> pd.DataFrame:
    """The runs of a baseline as `analysis.load.Results.runs` has them, of the strategies and models that were asked
    for. Raises AnalysisError for a file that is none, NewerSchema for one of a later TrainScale."""
    path = _path(name.removeprefix(_PREFIX), folder)
    try:
        held = json.loads(path.read_text())
        if held["schema_version"] > SCHEMA_VERSION:
            raise NewerSchema(
                f"baseline {str(path)!r} has schema {held['schema_version']}; this TrainScale knows {SCHEMA_VERSION} "
                "and earlier: update it, or save the baseline anew"
            )
        runs = pd.DataFrame(held["runs"], columns=[*_COLUMNS, "started_at", "machine"])
        runs["machine"] = [json.dumps(held["machines"][number]) for number in runs["machine"]]
        runs["started_at"] = pd.to_datetime(runs["started_at"])
    except FileNotFoundError:
        known = ", ".join(sorted(other.stem for other in folder.glob("*.json"))) or "none"
        raise AnalysisError(f"no baseline {path.stem!r} in {str(folder)!r}. There are: {known}") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise AnalysisError(f"{str(path)!r} is no baseline ({error!r}): save it anew with --save-baseline") from None
    for column in ("strategy", "model"):
        patterns: tuple[str, ...] = getattr(selection, column)
        if patterns:
            runs = runs[[any(fnmatch.fnmatchcase(str(held), each) for each in patterns) for held in runs[column]]]
    return runs.reset_index(drop=True)


def _path(name: str, folder: Path) -> Path:
    return folder / f"{name}.json"
