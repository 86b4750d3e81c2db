"""Whether the files of a store are what they say, and whether its tables fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import files, folders
from results.finding import Finding
from results.schema import RUN_TABLES, SCHEMA_VERSION, TABLES, TABLES_OF_RUNS
from results.store import SHARDS

if TYPE_CHECKING:
    import pyarrow as pa

_KEYS = {
    "runs": ("run_id",),
    "ranks": ("run_id", "rank"),
    "iters": ("run_id", "rank", "iter"),
    "telemetry": ("run_id", "rank"),
    "evals": ("run_id", "epoch"),
    "verifications": ("verification_id",),
}
"""The columns that are looked at."""

_UNIQUE = ("runs", "ranks", "iters", "evals")
"""Tables in which no two rows have the same."""

_OF_RUN = ("schema_version", "status", "num_processes")

_SINCE_SCHEMA_6 = ("epochs",)


@dataclass
class Verified:
    """What was looked at, and what was wrong."""

    files: int = 0
    findings: list[Finding] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """run_id -> what is checked of its row in `runs`."""
    holders: dict[str, dict[str, Path]] = field(default_factory=lambda: {table: {} for table in TABLES})
    """Table -> run_id -> the file that holds its rows."""
    ranks: dict[str, dict[str, set[int]]] = field(default_factory=lambda: {table: {} for table in TABLES})
    """Table -> run_id -> the ranks that have rows."""

    @property
    def runs(self) -> int:
        return len(self.holders["runs"])


def verify(root: Path) -> Verified:
    """Reads every file whole. Runs may end meanwhile."""
    verified = Verified()
    for table in TABLES:  # `runs` first: what can be seen then has its rows in the tables that are read later
        for name in folders.listed(root / table):
            folder = root / table / name
            if folders.is_temporary(name):
                continue
            if name == files.COLUMNS and not folder.is_symlink():
                if reason := files.fault(folder, table):
                    verified.findings.append(Finding(str(folder), f"{reason}: results.compact writes it anew"))
                continue
            if not name.startswith("date=") or folder.is_symlink() or not folder.is_dir():
                verified.findings.append(Finding(str(folder), "is not the folder of a day"))
                continue
            verified.findings += _strangers(folder)
            for path in files.of_day(folder):
                verified.files += 1
                verified.findings += _look_at(path, table, verified)
    # Before `runs` once more: who is not under way now and was seen above is there by then.
    under_way = set(folders.listed(root / SHARDS))
    ended = {
        run_id for day in files.days(root, "runs") for path in files.of_day(day) for run_id in files.runs_or_name(path)
    }
    verified.findings += _orphans(verified, under_way | ended)
    for run_id, row in verified.rows.items():
        verified.findings += _misfits(verified, run_id, row)
    return verified


def _strangers(folder: Path) -> Iterator[Finding]:
    for path in (folder / name for name in folders.listed(folder)):
        if path.is_symlink() or not (folders.is_temporary(path.name) or files.is_table(path.name)):
            yield Finding(str(path), "is not a file of this store")


def _look_at(path: Path, table: str, verified: Verified) -> Iterator[Finding]:
    holders = verified.holders[table]
    for run_id in files.runs_or_name(path):
        if (other := holders.setdefault(run_id, path)) != path:
            yield Finding(str(path), f"holds rows of {run_id}, which {other} holds too")
    columns = [*_KEYS[table], *(_OF_RUN if table == "runs" else ())]
    try:
        promised = files.runs_of(path)
        rows, schema = files.checked(path, table, columns, if_there=_SINCE_SCHEMA_6 if table == "runs" else ())
    except files.Foreign as reason:
        yield Finding(str(path), str(reason))
        return
    except (OSError, ValueError) as error:
        yield Finding(str(path), files.unreadable(error))
        return
    if extra := files.later_columns(schema, table):
        yield Finding(str(path), f"has a column that this TrainScale lacks: {extra[0]}; update it")
    yield from _rows(path, table, rows, promised, verified)


def _rows(path: Path, table: str, rows: pa.Table, promised: frozenset[str], verified: Verified) -> Iterator[Finding]:
    import pyarrow.compute as pc

    keys = _KEYS[table]
    who = rows.group_by([*keys[:2]]).aggregate([]).to_pylist()
    held = {row[keys[0]] for row in who}
    if strange := sorted(map(str, held - promised)):
        yield Finding(str(path), f"holds rows of {strange[0]}, which it does not say")
    if table in _UNIQUE:
        counted = rows.group_by([*keys]).aggregate([([], "count_all")])
        if twice := counted.filter(pc.greater(counted["count_all"], 1)).slice(0, 1).to_pylist():
            yield Finding(str(path), f"holds a row twice: {', '.join(f'{key} {twice[0][key]}' for key in keys)}")
    if table == "runs":
        verified.rows.update((row["run_id"], row) for row in rows.to_pylist())
        newest = max((row["schema_version"] or 0 for row in rows.to_pylist()), default=0)
        if lacking := sorted(promised - held):
            yield Finding(str(path), f"holds no row of {lacking[0]}")
        if newest > SCHEMA_VERSION:
            text = f"holds rows of schema {newest}; this TrainScale knows {SCHEMA_VERSION} and earlier: update it"
            yield Finding(str(path), text)
    elif table in RUN_TABLES:
        for row in who:
            verified.ranks[table].setdefault(row["run_id"], set()).add(row["rank"])


def _orphans(verified: Verified, known: set[str]) -> Iterator[Finding]:
    for table in TABLES_OF_RUNS[1:]:
        for run_id, path in verified.holders[table].items():
            if run_id not in known:
                yield Finding(str(path), f"holds rows of {run_id}, which is not in table 'runs'")


def _misfits(verified: Verified, run_id: str, row: dict[str, Any]) -> Iterator[Finding]:
    path = str(verified.holders["runs"].get(run_id, run_id))
    evaluated = row.get("epochs") is not None and row["status"] == "ok"
    for table in (*RUN_TABLES[1:], *(["evals"] if evaluated else [])):
        if run_id not in verified.holders[table]:
            yield Finding(path, f"{run_id} has no file in table {table!r}: its rows are lost")
            return
    wanted = set(range(row["num_processes"] or 0))
    ranks = verified.ranks["ranks"].get(run_id, set())
    if ranks - wanted or (row["status"] == "ok" and ranks != wanted):
        yield Finding(path, f"{run_id} had {row['num_processes']} processes, and table 'ranks' has {sorted(ranks)}")
    for table in RUN_TABLES[2:]:
        if unknown := verified.ranks[table].get(run_id, set()) - wanted:
            yield Finding(path, f"{run_id} has rows in {table!r} of rank {min(unknown)}, which it did not have")
