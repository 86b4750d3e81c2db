"""Rows on disk: append-only shards while a run lives, one parquet file a table when it has ended.

A shard is a file of JSON lines that one process appends to, so what was measured survives whatever happens to that
process. `commit` turns rows into parquet with temporary name, fsync, rename; the `runs` file comes last, so a run that
can be seen is complete. Readers never see a shard or a temporary file: both live under names that start with a dot.
docs/store.md says what survives what.

    results/data/.shards/<run_id>/rank-00000.jsonl
    results/data/<table>/0-columns                                all columns of a table and no row, for its readers
    results/data/<table>/date=YYYY-MM-DD/<run_id>.parquet
    results/data/<table>/date=YYYY-MM-DD/compacted-*.parquet      the runs of a day that `results.compact` has merged
    results/data/.sweeps/<hash of the experiment>/<sweep_task>    for each run of a sweep that is ok: to find it again
                                                                  takes no reading of thousands of files
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from results import files, folders
from results.schema import TABLES, arrow_schema
from results.writers import myself

Row = Mapping[str, Any]

SHARDS, SWEEPS = ".shards", ".sweeps"

_SHARD = ".jsonl"

_KINDS = ("run", "rank", "iters", "telemetry", "evals", "writers")
"""Of lines in a shard."""

_RECENT = 500


def new_run_id(started_at: datetime) -> str:
    """Unique, and sorts by time."""
    return f"{started_at:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


class StoreError(Exception):
    """The results directory cannot be used, one line with the remedy."""

    exit_code = 3


@dataclass(frozen=True)
class ShardContent:
    """What one process wrote: its part of the run's row, its rank's row, and the rows it appended."""

    name: str
    run: dict[str, Any] = field(default_factory=dict)
    rank: dict[str, Any] = field(default_factory=dict)
    iters: list[dict[str, Any]] = field(default_factory=list)
    telemetry: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    writers: list[dict[str, Any]] = field(default_factory=list)
    """The processes that opened it, as `results.writers.myself` describes them."""


class Shard:
    """An append-only file. Every call is one write of one line, so threads may share a shard and a kill or a full disk
    costs at most the line being written."""

    def __init__(self, folder: int, name: str, *, make: bool = True) -> None:
        self._name = name
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
        self._fd = os.open(f"{folders.component(name)}{_SHARD}", flags, 0o666, dir_fd=folder)
        try:
            self._append("writers", myself())
        except OSError:
            os.close(self._fd)
            raise

    def update_run(self, **fields: Any) -> None:
        """Sets fields of the run's row; the last writer of a field wins, and dicts are joined."""
        self._append("run", fields)

    def update_rank(self, **fields: Any) -> None:
        """Sets fields of this rank's row."""
        self._append("rank", fields)

    def add_iter(self, row: Row) -> None:
        """Adds a row to `iters`."""
        self._append("iters", row)

    def add_telemetry(self, row: Row) -> None:
        """Adds a row to `telemetry`."""
        self._append("telemetry", row)

    def add_eval(self, row: Row) -> None:
        """Adds a row to `evals`."""
        self._append("evals", row)

    def content(self) -> ShardContent:
        """What all processes have written to it so far, even if somebody has removed it since it was opened."""
        return _content(self._name, os.pread(self._fd, os.fstat(self._fd).st_size, 0))

    def sync(self) -> None:
        """Returns when what was appended would survive a power cut."""
        os.fsync(self._fd)

    def close(self) -> None:
        self.sync()
        os.close(self._fd)

    def _append(self, kind: str, row: Row) -> None:
        # The line break comes first: it ends whatever an earlier write, ours or that of a dead process, left half done.
        # And words that are no text, as a file's name may be, must not keep the rows out of the tables in the end.
        line = ("\n" + json.dumps([kind, row], separators=(",", ":"), ensure_ascii=False)).encode(errors="replace")
        if os.write(self._fd, line) < len(line):
            # No second write for the rest: another thread's line may stand between by now.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._name)


class Store:
    """One results directory."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def prepare(self) -> None:
        """Creates the directory and proves that it can be written. Raises StoreError."""
        try:
            with folders.opened(self.root) as folder:
                probe = f".probe-{secrets.token_hex(4)}"
                folders.touch(folder, probe)
                os.unlink(probe, dir_fd=folder)
        except OSError as error:
            raise StoreError(
                f"results directory {str(self.root)!r} cannot be written ({error.strerror}): "
                "choose another with --results-dir"
            ) from error

    def open_shard(self, run_id: str, name: str) -> Shard:
        """A new or continued shard of a run. `name` is unique in the run."""
        with folders.opened(self.root, SHARDS, run_id) as folder:
            return Shard(folder, name)

    def find_shard(self, run_id: str, name: str) -> Shard | None:
        """The shard of a run that has not been concluded."""
        try:
            with folders.opened(self.root, SHARDS, run_id, make=False) as folder:
                return Shard(folder, name, make=False)
        except FileNotFoundError:
            return None

    def is_open(self, run_id: str) -> bool:
        """Whether the run has not been concluded."""
        return (self.root / SHARDS / run_id).exists()

    def read_shards(self, run_id: str) -> list[ShardContent]:
        """Everything the processes of a run wrote, sorted by name. A half-written line is left out."""
        return [_read_shard(path) for path in sorted((self.root / SHARDS / run_id).glob(f"*{_SHARD}"))]

    def discard(self, run_id: str) -> None:
        """Forgets the shards of a run."""
        with contextlib.suppress(OSError), folders.opened(self.root, SHARDS, run_id, make=False) as folder:
            for path in sorted((self.root / SHARDS / run_id).iterdir()):  # the launcher's last: it is who is alive
                os.unlink(path.name, dir_fd=folder)
        with contextlib.suppress(OSError), folders.opened(self.root, SHARDS, make=False) as folder:
            os.rmdir(run_id, dir_fd=folder)
        with contextlib.suppress(OSError), folders.opened(self.root, make=False) as folder:
            os.rmdir(SHARDS, dir_fd=folder)

    def commit(self, run_id: str, started_at: datetime, tables: Mapping[str, Iterable[Row]]) -> None:
        """Writes one file a table, `runs` last, then drops the shards.

        Raises ValueError for a row with a column that the schema lacks, and OSError when the disk refuses;
        the shards are then still there.
        """
        day = f"date={started_at:%Y-%m-%d}"
        for table in sorted(tables, key=lambda name: name == "runs"):
            files.note_columns(self.root, table)
            with folders.opened(self.root, table, day) as folder:
                _write_parquet(folder, f"{run_id}.parquet", table, list(tables[table]))
        self.note_finished(tables.get("runs", ()))
        self.discard(run_id)

    def note_finished(self, runs: Iterable[Row]) -> None:
        """Marks those of a sweep that are ok, for `finished_tasks`."""
        for row in runs:
            if row.get("sweep_task") and row["status"] == "ok":
                with folders.opened(self.root, SWEEPS, _digest(row["experiment"])) as folder:
                    folders.touch(folder, row["sweep_task"])

    def finished_tasks(self, experiment: str) -> set[str]:
        """`sweep_task` of every run of the experiment that was ok."""
        return {*folders.listed(self.root / SWEEPS / _digest(experiment))}

    def open_sweep_lock(self, experiment: str) -> int:
        """A descriptor of the file by which one sweep of the experiment keeps others out."""
        with folders.opened(self.root, SWEEPS) as folder:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            return os.open(f"{_digest(experiment)}.lock", flags, 0o666, dir_fd=folder)

    def newest_run(self, **equal: Any) -> str | None:
        """run_id of the newest run, ended or cut off, whose fields have these values, among the last _RECENT or so."""
        cut_off = [path for path in self.root.glob(f"{SHARDS}/*/run{_SHARD}") if _has(_read_shard(path).run, equal)]
        return max(self._newest_ended(equal), *(path.parent.name for path in cut_off), "") or None

    def _newest_ended(self, equal: Row) -> str:
        looked_at = 0
        for day in sorted(self.root.glob("runs/date=*"), reverse=True):
            rows = files.rows_of_day(day, ["run_id", *equal])
            found = max((row["run_id"] for row in rows if _has(row, equal)), default=None)
            looked_at += len(rows)
            if found or looked_at >= _RECENT:
                return found or ""
        return ""

    def open_run(self, shard: str, **rank: Any) -> str | None:
        """run_id of a run that has not been concluded, whose shard of that name has these fields of a rank."""
        shards = self.root.glob(f"{SHARDS}/*/{shard}{_SHARD}")
        return next((path.parent.name for path in shards if _has(_read_shard(path).rank, rank)), None)


def _digest(experiment: str) -> str:
    return hashlib.sha256(experiment.encode()).hexdigest()[:16]


def _read_shard(path: Path) -> ShardContent:
    try:
        return _content(path.stem, path.read_bytes())
    except FileNotFoundError:  # concluded while we looked
        return ShardContent(path.stem)


def _content(name: str, text: bytes) -> ShardContent:
    content = ShardContent(name)
    for kind, row in _lines(text):
        if kind in ("run", "rank"):
            join(getattr(content, kind), row)
        else:
            getattr(content, kind).append(row)
    return content


def _has(row: Row, equal: Row) -> bool:
    return all(row.get(name) == value for name, value in equal.items())


def join(fields: dict[str, Any], later: Row) -> None:
    """Update `fields` by a row that was written later; dicts under the same name are joined likewise."""
    for name, value in later.items():
        earlier = fields.get(name)
        if isinstance(value, dict) and isinstance(earlier, dict):
            fields[name] = {**earlier}
            join(fields[name], value)
        else:
            fields[name] = value


def _lines(text: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in text.split(b"\n"):
        try:
            kind, row = json.loads(line)
        except (ValueError, TypeError, RecursionError):  # half a line is never JSON: its last bracket is missing
            continue
        if kind in _KINDS and isinstance(row, dict):
            yield kind, row


def _write_parquet(folder: int, name: str, table: str, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = {column.name for column in TABLES[table]}
    for row in rows:
        if unknown := set(row) - known:
            raise ValueError(f"table {table!r} has no column {sorted(unknown)}")
    with folders.replaced(folder, name) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(table)), file, write_page_checksum=True)
