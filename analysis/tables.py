"""The tables of a store in DuckDB, whatever the number of files and the schema version that wrote them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from analysis import files
from results import files as store_files
from results.schema import arrow_schema

_FILES_AT_ONCE = 1000
"""DuckDB keeps what the footers of a query's files say in memory: 0.2 MB a file of `runs`."""


_ROWS = """(
    -- Columns that an earlier schema lacks are null; what a later one added is not looked at.
    from no_rows union all by name from read_parquet(?, union_by_name = true, hive_partitioning = false)
)"""


class Foreign(Exception):
    """A file holds rows that are not of its table."""


class Tables:
    """A connection, and the files of each table."""

    def __init__(self, paths: Mapping[str, Sequence[Path]]) -> None:
        self.paths = paths
        self._db = duckdb.connect()
        # DuckDB gives moments in the zone of the session, which else is this machine's; days are those of UTC.
        self._db.execute("set TimeZone = 'UTC'")

    def collect(self, table: str, wanted: Mapping[str, str], without: Collection[str] = ()) -> None:
        """Makes a table of each answer to `wanted` (name -> SQL about `source`, the rows of `table`), some files at a
        time. A run's rows are all in one file, so what is grouped by run is right.

        `without` are runs whose own files are not read. Raises Foreign, and duckdb.Error for damaged files.
        """
        paths = [str(path) for path in files.without_runs(self.paths[table], without)]
        source = f"with source as (select {self._columns(table)} from {{}})"
        for name, sql in wanted.items():
            self._db.execute(f"create or replace table {name} as {source.format('no_rows')} {sql}")
        for start in range(0, len(paths), _FILES_AT_ONCE):
            batch = paths[start : start + _FILES_AT_ONCE]
            if self.rows(f"select 1 from {_ROWS} where run_id is null limit 1", batch):
                raise Foreign
            for name, sql in wanted.items():
                self._db.execute(f"insert into {name} by name {source.format(_ROWS)} {sql}", [batch])

    def _columns(self, table: str) -> str:
        """Those of a table, which _ROWS then has."""
        schema = arrow_schema(table)
        self._db.register("no_rows", schema.empty_table())
        # A column may have the name of one of SQL's own words.
        return ", ".join(f'"{name}"' for name in schema.names)

    def fault(self, path: Path, table: str) -> str | None:
        """Why a file cannot be read as this table; None when it can. Reads it whole, twice: what checks the sums reads
        over some damage that DuckDB does not."""
        if reason := store_files.fault(path, table):
            return reason
        try:
            rows = f"select {self._columns(table)} from {_ROWS}"
            self._db.execute(f"create or replace temp table whole as {rows}", [[str(path)]])
            self._db.execute("drop table whole")
        except duckdb.Error as error:
            return store_files.unreadable(duckdb.Error(str(error).partition("\n")[0]))  # the rest is our SQL
        return None

    def query(self, sql: str, *parameters: object) -> pd.DataFrame:
        """The answer of the tables that were collected."""
        return self._db.execute(sql, list(parameters)).fetch_df()

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The same as tuples."""
        # Read to its end: an unfinished answer would hold the connection.
        return [tuple(row) for row in self._db.execute(sql, list(parameters)).fetchall()]

    def matching(self, frame: pd.DataFrame, condition: str, column: str) -> set[Any]:
        """The values of a column in the rows of a frame for which an SQL condition is true. Raises duckdb.Error."""
        self._db.register("frame", frame)
        try:
            return {value for (value,) in self.rows(f"select {column} from frame where ({condition})")}
        finally:
            self._db.unregister("frame")
