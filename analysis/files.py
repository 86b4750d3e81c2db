"""The files of a store: which there are, and which of them are not what their place says."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import AnalysisError
from results import files as store_files


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def directories(patterns: Sequence[str]) -> list[Path]:
    """The result directories that paths or patterns name. Raises AnalysisError for one that names none with runs."""
    found: dict[Path, Path] = {}
    for pattern in patterns:
        literal = [Path(pattern)] if Path(pattern).is_dir() else []
        roots = literal or [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207 of absolute patterns too
        holding = [root for root in roots if next(root.glob("runs/date=*/*.parquet"), None)]
        if not holding:
            raise AnalysisError(f"no runs in {pattern!r}: measure some with python -m bench.run, or name --results-dir")
        found.update((root.resolve(), root) for root in holding)
    return list(found.values())


def of_table(roots: Sequence[Path], table: str, since: str | None, until: str | None) -> list[Path]:
    """The parquet files of a table, of the days that the folders are named after; each run is in one of them."""
    days = (day for root in roots for day in store_files.days(root, table))
    chosen = [day for day in days if (since or "") <= day.name[5:] <= (until or "9")]
    return [path for day in chosen for path in store_files.of_day(day)]


def without_runs(paths: Sequence[Path], left_out: Collection[str]) -> list[Path]:
    """The files but those of single runs that are not wanted; files of many runs have other names and stay."""
    return [path for path in paths if path.stem not in left_out]


def sort_out(paths: Sequence[Path], fault: Callable[[Path], str | None]) -> tuple[list[Path], list[Skipped]]:
    """(files that are sound, the others). `fault` says why one cannot be read."""
    faults = {path: fault(path) for path in paths}
    bad = [Skipped(path, reason) for path, reason in faults.items() if reason is not None]
    return [path for path, reason in faults.items() if reason is None], bad
