"""`python -m results.compact`: merges the files of finished days, one for each run, into one for each table and day.

What is merged is read back before the files that it was made of go away, and until then readers of ours take it for a
copy: to stop this command at any moment loses nothing, and the next call goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from results import files, folders
from results.command_line import Refused, perform
from results.exit_codes import ExitCode
from results.maintenance import alone
from results.schema import TABLES, TABLES_OF_RUNS, arrow_schema
from results.store import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 122_880
"""Of a row group: what DuckDB reads in one go."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Merge the files of finished days, so that a large store is read faster. Runs and readers may go on."""

    results_dir: Path = Path("results/data")
    """Where the tables are kept [path]."""
    older_than_days: Annotated[int, arg(metavar="DAYS")] = 1
    """Leave days (UTC) alone that ended less than so many days ago [days]; today is always left alone."""


@dataclass
class Done:
    """What a call has changed, and what it left alone because it could not read it."""

    merged: int = 0
    into: int = 0
    left: list[str] = field(default_factory=list)


class _Unfit(Exception):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


def compact(root: Path, before: date) -> Done:
    """Merges the files of each table and day before that one. Raises StoreError, and OSError when the disk refuses: no
    file is gone then whose rows are not elsewhere."""
    done = Done()
    with alone(root, changing=True):
        for table in TABLES:
            days = list(files.days(root, table))
            if days:
                files.note_columns(root, table)
            for folder in days:
                if folder.name[5:] < before.isoformat():
                    _compact_day(root, table, folder, done)
    return done


def drop_copies(root: Path, table: str, folder: Path) -> int:
    """Removes the files whose rows a merged one holds, if that can be read; returns how many."""
    paths = [folder / name for name in folders.listed(folder) if files.is_table(name)]
    kept = files.without_copies(paths)
    copies = set(paths) - set(kept)
    if not copies or any(files.fault(path, table) for path in kept if path.name.startswith(files.COMPACTED)):
        return 0
    _remove(root, folder, copies)
    return len(copies)


def _compact_day(root: Path, table: str, folder: Path, done: Done) -> None:
    done.merged += drop_copies(root, table, folder)
    sources = files.of_day(folder)
    if table in TABLES_OF_RUNS:
        # Of a run that cannot be seen yet the rows may still change.
        visible = {run_id for path in files.of_day(root / "runs" / folder.name) for run_id in files.runs_or_name(path)}
        sources = [path for path in sources if files.runs_or_name(path) <= visible]
    while len(sources) > 1:
        try:
            merged = _merge(root, table, folder, sources)
        except _Unfit as unfit:
            done.left.append(str(unfit))
            sources = [path for path in sources if path != unfit.path]
            continue
        if reason := files.fault(merged, table):
            raise OSError(None, f"what was merged {reason}, and the files that it was made of stay", str(merged))
        _remove(root, folder, sources)
        done.merged, done.into = done.merged + len(sources), done.into + 1
        return


def _merge(root: Path, table: str, folder: Path, sources: Sequence[Path]) -> Path:
    """A file of all rows of the sources. Raises _Unfit for the first that is not what it should be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"{files.COMPACTED}{hashlib.sha256(' '.join(p.name for p in sources).encode()).hexdigest()[:16]}.parquet"
    run_ids: set[str] = set()
    waiting: list[pa.Table] = []
    with (
        folders.opened(root, table, folder.name, make=False) as descriptor,
        folders.replaced(descriptor, name) as file,
        pq.ParquetWriter(file, arrow_schema(table), write_page_checksum=True) as writer,
    ):
        for path in sources:
            for rows in _rows(path, table, run_ids):
                waiting.append(rows)
                if sum(map(len, waiting)) >= _ROWS_AT_ONCE:
                    writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS_AT_ONCE)
                    waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS_AT_ONCE)
        writer.add_key_value_metadata({files.RUN_IDS: json.dumps(sorted(run_ids))})
    return folder / name


def _rows(path: Path, table: str, run_ids: set[str]) -> Iterator[pa.Table]:
    """The rows of a file in today's schema, a row group at a time; adds its runs to `run_ids`. Raises _Unfit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        promised = files.runs_of(path)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if reason := _why_not(file.schema_arrow, table):
                raise _Unfit(path, reason)
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                held = set(rows[files.IDENTITY[table][0]].to_pylist())
                if not held <= promised:
                    raise _Unfit(path, f"holds rows of {min(map(str, held - promised))}, which it does not say")
                yield _in_todays_schema(rows, table)
    except files.Foreign as reason:
        raise _Unfit(path, str(reason)) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _Unfit(path, files.unreadable(error)) from None
    run_ids |= promised


def _why_not(schema: pa.Schema, table: str) -> str | None:
    later = files.later_columns(schema, table)
    return files.strange(schema, table) or (f"has a column that this TrainScale lacks: {later[0]}" if later else None)


def _in_todays_schema(rows: pa.Table, table: str) -> pa.Table:
    """The same rows with every column of today's schema; those that an earlier one lacked are null."""
    import pyarrow as pa

    columns = []
    for wanted in arrow_schema(table):
        if wanted.name not in rows.schema.names:
            columns.append(pa.nulls(len(rows), wanted.type))
        elif (held := rows[wanted.name]).type == wanted.type:
            columns.append(held)
        else:  # a struct that has grown: few and small, so by way of Python
            columns.append(pa.array(held.to_pylist(), wanted.type))
    return pa.table(columns, schema=arrow_schema(table))


def _remove(root: Path, folder: Path, paths: Collection[Path]) -> None:
    with folders.opened(root, folder.parent.name, folder.name, make=False) as descriptor:
        for path in paths:
            os.unlink(path.name, dir_fd=descriptor)
        os.fsync(descriptor)


def _work(options: Options) -> int:
    today = datetime.now(timezone.utc).date()
    most = (today - date.min).days
    if not 0 <= options.older_than_days <= most:
        raise Refused(f"--older-than-days {options.older_than_days}: give 0 for all days before today, up to {most}")
    before = today - timedelta(days=options.older_than_days)
    try:
        done = compact(options.results_dir, before)
    except OSError as error:
        where, why = error.filename or options.results_dir, error.strerror or error
        raise StoreError(f"{where}: {why}; nothing is lost: mend that and call it again") from error
    print(f"{done.merged} files are now {done.into}" if done.merged else "nothing to merge")
    for each in done.left:
        print(f"results.compact: left alone: {each}: see python -m results.check", file=sys.stderr)
    return ExitCode.ENVIRONMENT if done.left else ExitCode.OK


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 done, 2 usage, 3 something could not be read or written."""
    return perform("results.compact", Options, argv, _work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
