"""The files of a store: which there are, and which of them are not what their place says."""

from __future__ import annotations

import glob
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import AnalysisError
from results.schema import RUN_TABLES, arrow_schema


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
    """The parquet files of a table, of the days that the folders are named after."""
    days = (day for root in roots for day in sorted((root / table).glob("date=*")))
    chosen = [day for day in days if (since or "") <= day.name[5:] <= (until or "9")]
    return [path for day in chosen for path in sorted(day.glob("*.parquet")) if not path.name.startswith(".")]


def without_runs(paths: Sequence[Path], left_out: Collection[str]) -> list[Path]:
    """The files but those of single runs that are not wanted; files of many runs have other names and stay."""
    return [path for path in paths if path.stem not in left_out]


def sort_out(paths: Sequence[Path], table: str) -> tuple[list[Path], list[Skipped]]:
    """(files that can be read as this table, those that cannot). Reads every file whole, so only after trouble."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {field.name: field.type for field in arrow_schema(table)}
    good: list[Path] = []
    bad: list[Skipped] = []
    for path in paths:
        try:
            held = pq.ParquetFile(path).read().schema
        except (OSError, pa.ArrowException) as error:
            bad.append(Skipped(path, f"cannot be read ({' '.join(str(error).split())[:120]})"))
            continue
        if reason := _foreign({field.name: field.type for field in held}, wanted, table):
            bad.append(Skipped(path, reason))
        else:
            good.append(path)
    return good, bad


def _foreign(held: dict[str, object], wanted: dict[str, object], table: str) -> str | None:
    lacking = [name for name in IDENTITY[table] if name not in held]
    if lacking:
        return f"is not of table {table!r}: lacks {', '.join(lacking)}"
    # Structs grow with the schema's versions; plain columns keep their type.
    other = [name for name in held if name in wanted and not _alike(held[name], wanted[name])]
    return f"is not of table {table!r}: {other[0]} is {held[other[0]]}" if other else None


def _alike(held: object, wanted: object) -> bool:
    return str(held).partition("<")[0] == str(wanted).partition("<")[0]


IDENTITY = {
    table: ("run_id", "schema_version", "status") if table == "runs" else ("run_id", "rank") for table in RUN_TABLES
}
"""The columns that no row of a table lacks."""
