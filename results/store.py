"""Rows on disk: append-only shards while a run lives, one parquet file a table when it has ended.

A shard is a file of JSON lines that one process appends to, so what was measured survives whatever happens to that
process. `commit` turns rows into parquet with temporary name, fsync, rename; the `runs` file comes last, so a run that
can be seen is complete. Readers never see a shard or a temporary file: both live under names that start with a dot.

    results/data/.shards/<run_id>/rank-00000.jsonl
    results/data/<table>/date=YYYY-MM-DD/<run_id>.parquet
    results/data/.sweeps/<hash of the experiment>/<sweep_task>    for each run of a sweep that is ok: to find it again
                                                                  takes no reading of thousands of files
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from results.schema import TABLES, arrow_schema

Row = Mapping[str, Any]

_RECENT = 500
_KINDS = ("run", "rank", "iters", "telemetry")
"""What a line of a shard can be."""


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


class Shard:
    """An append-only file. Every call is one write of one line, so threads may share a shard and a kill costs at
    most the line being written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)

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

    def sync(self) -> None:
        """Returns when what was appended would survive a power cut."""
        os.fsync(self._fd)

    def close(self) -> None:
        self.sync()
        os.close(self._fd)

    def _append(self, kind: str, row: Row) -> None:
        os.write(self._fd, (json.dumps([kind, row], separators=(",", ":")) + "\n").encode())


class Store:
    """One results directory."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def prepare(self) -> None:
        """Creates the directory and proves that it can be written. Raises StoreError."""
        probe = self.root / f".probe-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"results directory {str(self.root)!r} cannot be written ({error.strerror}): "
                "choose another with --results-dir"
            ) from error

    def open_shard(self, run_id: str, name: str) -> Shard:
        """A new or continued shard of a run. `name` is unique in the run."""
        return Shard(self._shard_dir(run_id) / f"{name}.jsonl")

    def read_shards(self, run_id: str) -> list[ShardContent]:
        """Everything the processes of a run wrote, sorted by name. Lines that are damaged are left out."""
        return [_read_shard(path) for path in sorted(self._shard_dir(run_id).glob("*.jsonl"))]

    def discard(self, run_id: str) -> None:
        """Forgets the shards of a run."""
        shutil.rmtree(self._shard_dir(run_id), ignore_errors=True)
        with contextlib.suppress(OSError):
            self._shard_dir(run_id).parent.rmdir()

    def commit(self, run_id: str, started_at: datetime, tables: Mapping[str, Iterable[Row]]) -> None:
        """Writes one file a table, `runs` last, then drops the shards.

        Raises ValueError for a row with a column that the schema lacks, and OSError when the disk refuses;
        the shards are then still there.
        """
        day = f"date={started_at:%Y-%m-%d}"
        for table in sorted(tables, key=lambda name: name == "runs"):
            _write_parquet(self.root / table / day / f"{run_id}.parquet", table, list(tables[table]))
        self.note_finished(tables.get("runs", ()))
        self.discard(run_id)

    def note_finished(self, runs: Iterable[Row]) -> None:
        """Marks those of a sweep that are ok, for `finished_tasks`."""
        for row in runs:
            if row.get("sweep_task") and row["status"] == "ok":
                marker = self._sweep_dir(row["experiment"]) / row["sweep_task"]
                marker.parent.mkdir(parents=True, exist_ok=True)
                marker.touch()

    def finished_tasks(self, experiment: str) -> set[str]:
        """`sweep_task` of every run of the experiment that was ok."""
        try:
            return {entry.name for entry in os.scandir(self._sweep_dir(experiment))}
        except FileNotFoundError:
            return set()

    def sweep_lock(self, experiment: str) -> Path:
        """The file by which one sweep of the experiment keeps others out."""
        return self._sweep_dir(experiment).with_suffix(".lock")

    def newest_run(self, **equal: Any) -> str | None:
        """run_id of the newest run, ended or cut off, whose fields have these values, among the last _RECENT."""
        ended = sorted(self.root.glob("runs/date=*/*.parquet"), key=lambda path: path.name, reverse=True)[:_RECENT]
        found = (path.stem for path in ended if _has(_first_row(path, [*equal]), equal))
        cut_off = [path for path in self.root.glob(".shards/*/run.jsonl") if _has(_read_shard(path).run, equal)]
        return max(next(found, ""), *(path.parent.name for path in cut_off), "") or None

    def open_run(self, shard: str, **rank: Any) -> str | None:
        """run_id of a run that has not been concluded, whose shard of that name has these fields of a rank."""
        shards = self.root.glob(f".shards/*/{shard}.jsonl")
        return next((path.parent.name for path in shards if _has(_read_shard(path).rank, rank)), None)

    def _sweep_dir(self, experiment: str) -> Path:
        return self.root / ".sweeps" / hashlib.sha256(experiment.encode()).hexdigest()[:16]

    def _shard_dir(self, run_id: str) -> Path:
        return self.root / ".shards" / run_id


def _read_shard(path: Path) -> ShardContent:
    content = ShardContent(path.stem)
    for kind, row in _lines(path):
        if kind in ("run", "rank"):
            join(getattr(content, kind), row)
        else:
            getattr(content, kind).append(row)
    return content


def _first_row(path: Path, columns: list[str]) -> Row:
    """Of a parquet file; nothing of one that is damaged, which the analysis names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.ParquetFile(path).read(columns=columns).to_pylist()
    except (OSError, ValueError, pa.ArrowException):
        return {}
    return rows[0] if rows else {}


def _has(row: Row, equal: Row) -> bool:
    return all(row.get(name) == value for name, value in equal.items())


def join(fields: dict[str, Any], later: Row) -> None:
    """Updates `fields` by what was said later; dicts under the same name are joined, one level deep."""
    for name, value in later.items():
        earlier = fields.get(name)
        fields[name] = {**earlier, **value} if isinstance(value, dict) and isinstance(earlier, dict) else value


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:  # concluded while we looked
        return
    for line in text.splitlines():
        try:
            kind, row = json.loads(line)
        except (ValueError, TypeError, RecursionError):  # cut short by a kill or a full disk, or damaged
            continue
        if kind in _KINDS and isinstance(row, dict):
            yield kind, row


def _write_parquet(path: Path, table: str, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = {column.name for column in TABLES[table]}
    for row in rows:
        if unknown := set(row) - known:
            raise ValueError(f"table {table!r} has no column {sorted(unknown)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(table)), temporary)
        _fsync(temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
