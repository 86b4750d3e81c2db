"""The parquet files of a store: whose rows they hold, and what is wrong with them.

A file is named after its run. One that `results.compact` made of many has another name, and its footer lists its runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import folders
from results.folders import listed
from results.schema import TABLES, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

COMPACTED = "compacted-"
"""How the name of a file of many runs starts."""

RUN_IDS = b"run_ids"
"""Key in the footer of such a file: its runs as JSON, those without a row in the table too."""

COLUMNS = "0-columns"
"""The name of the file in a table's folder that has all columns and no row. Readers like pandas give the columns of the
first file alone, and its name sorts before every day. It has no ending, so a glob for *.parquet leaves it out."""

_IDENTITY = {
    "runs": ("run_id", "schema_version", "status"),
    "evals": ("run_id", "epoch"),
    "verifications": ("verification_id", "verdict"),
}
IDENTITY = {table: _IDENTITY.get(table, ("run_id", "rank")) for table in TABLES}
"""The columns that no row of a table lacks; the first says whose row it is."""


class Foreign(Exception):
    """A file is not what its place and name say."""


def of_day(folder: Path) -> list[Path]:
    """The files of a table and day, each run in one of them, whatever an interrupted compaction has left there."""
    return without_copies([folder / name for name in listed(folder) if is_table(name)])


def is_table(name: str) -> bool:
    """Whether a file of this name is one that readers see."""
    return name.endswith(".parquet") and not name.startswith(".")


def without_copies(paths: Sequence[Path]) -> list[Path]:
    """The files but those whose runs are all in another one that was made of them."""
    if len(paths) == 1 or not any(path.name.startswith(COMPACTED) for path in paths):
        return [*paths]
    kept: list[Path] = []
    merged: set[str] = set()
    runs = {path: runs_or_name(path) for path in paths}
    for path in sorted(paths, key=lambda path: (-len(runs[path]), path.name)):
        if not (merged and runs[path] <= merged):
            kept.append(path)
            merged |= runs[path] if path.name.startswith(COMPACTED) else set()
    return sorted(kept)


def runs_or_name(path: Path) -> frozenset[str]:
    """The runs whose rows a file says it holds, or the one that it is named after where it cannot say."""
    try:
        return runs_of(path)
    except (OSError, ValueError, Foreign):
        return frozenset([path.stem])


def runs_of(path: Path) -> frozenset[str]:
    """The runs whose rows a file says it holds. Raises OSError or ValueError where it cannot be read, and Foreign."""
    import pyarrow.parquet as pq

    if not path.name.startswith(COMPACTED):
        return frozenset([path.stem])
    text = (pq.read_metadata(path).metadata or {}).get(RUN_IDS)
    runs = json.loads(text) if text else None
    if not isinstance(runs, list) or not all(isinstance(run_id, str) for run_id in runs):
        raise Foreign("is called compacted and does not say of which runs")
    return frozenset(runs)


def rows_of_day(folder: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of all rows of a table and day; what cannot be read, or lacks a column, is left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    while True:
        paths = of_day(folder)
        rows: list[dict[str, Any]] = []
        for path in paths:
            try:
                rows += pq.ParquetFile(path).read(columns=[*columns]).to_pylist()
            except (OSError, pa.ArrowException):
                continue
        if {*paths} <= {*of_day(folder)}:  # else a compaction took files away under our hands; runs come all the time
            return rows


def note_columns(root: Path, table: str) -> None:
    """Writes the file COLUMNS of a table, unless that of today's schema or of a later one is there. Raises OSError."""
    import pyarrow.parquet as pq

    with folders.opened(root, table) as folder:
        if _has_columns(folder, table):
            return
        with folders.replaced(folder, COLUMNS) as file:
            pq.write_table(arrow_schema(table).empty_table(), file, write_page_checksum=True)


def _has_columns(folder: int, table: str) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        descriptor = os.open(COLUMNS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            schema = pq.read_schema(file)
    except (OSError, pa.ArrowException):
        return False
    return schema.equals(arrow_schema(table)) or bool(later_columns(schema, table))


def later_columns(schema: pa.Schema, table: str) -> list[str]:
    """Those that today's schema of the table lacks."""
    known = {column.name for column in TABLES[table]}
    return [name for name in schema.names if name not in known]


def strange(schema: pa.Schema, table: str) -> str | None:
    """Why the columns of a file are not of this table, in whatever version; None when they are."""
    held = {column.name: column.type for column in schema}
    lacking = [name for name in IDENTITY[table] if name not in held]
    if lacking:
        return f"is not of table {table!r}: lacks {', '.join(lacking)}"
    wanted = {field.name: field.type for field in arrow_schema(table)}
    # Structs grow with the schema's versions; plain columns keep their type.
    other = [name for name in held if name in wanted and not _alike(held[name], wanted[name])]
    return f"is not of table {table!r}: {other[0]} is {held[other[0]]}" if other else None


def _alike(held: object, wanted: object) -> bool:
    return str(held).partition("<")[0] == str(wanted).partition("<")[0]


def checked(
    path: Path, table: str, columns: Sequence[str], *, if_there: Sequence[str] = ()
) -> tuple[pa.Table, pa.Schema]:
    """Some columns of a file, all of which was read against the checksums of its pages, and its schema; `if_there` are
    columns that earlier versions lack. Raises Foreign, with the reason alone, when it cannot be read as this table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if reason := strange(file.schema_arrow, table):
                raise Foreign(reason)
            if lacking := [name for name in columns if name not in file.schema_arrow.names]:
                raise Foreign(f"lacks {lacking[0]}")
            columns = [*columns, *(name for name in if_there if name in file.schema_arrow.names)]
            groups = [
                file.read_row_group(group, use_threads=False).select(columns) for group in range(file.num_row_groups)
            ]
            rows = pa.concat_tables(groups) if groups else file.schema_arrow.empty_table().select(columns)
            return rows, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise Foreign(unreadable(error)) from None


def fault(path: Path, table: str) -> str | None:
    """Why a file cannot be read as this table; None when it can."""
    try:
        checked(path, table, IDENTITY[table])
    except Foreign as reason:
        return str(reason)
    return None


def unreadable(error: Exception) -> str:
    """The reason in words."""
    return f"cannot be read ({' '.join(str(error).split())[:120]})"


def days(root: Path, table: str) -> Iterator[Path]:
    """The folders of a table, oldest first."""
    return (root / table / name for name in listed(root / table) if name.startswith("date="))
