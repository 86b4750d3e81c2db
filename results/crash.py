"""What a crash leaves in a store, and how it is finished."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from results import files, folders
from results.compact import drop_copies
from results.finding import Finding
from results.record import RUN_SHARD, Ending, conclude, could_not_start
from results.schema import MEASUREMENT_VERSION, RUN_TABLES, SCHEMA_VERSION, TABLES, TABLES_OF_RUNS
from results.store import SHARDS, ShardContent, Store, StoreError
from results.writers import lives

_LOST = "its launcher died and could not record how the run ended; recovered by results.check"


@dataclass
class Left:
    """What was found. Runs by their ids; `visible` are those in the table `runs`."""

    visible: set[str] = field(default_factory=set)
    live: list[str] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)
    """Runs that are visible and whose shards are still there."""
    foreign: list[Path] = field(default_factory=list)
    temporaries: list[Path] = field(default_factory=list)
    copies: list[tuple[str, Path]] = field(default_factory=list)
    """(table, folder) where files are left that have been merged into another."""


def look(root: Path, older_than_s: float) -> Left:
    """Finds it. A run of another machine is alive as long as it has written something less than `older_than_s` ago."""
    left = Left()
    store, bound = Store(root), time.time() - older_than_s
    # First: a run that ends meanwhile is then alive, or already visible.
    for run_id in folders.listed(root / SHARDS):
        folder = root / SHARDS / run_id
        if folder.is_symlink() or folder.is_file():
            left.foreign.append(folder)
        elif _alive(folder, store.read_shards(run_id), bound):
            left.live.append(run_id)
        else:
            left.abandoned.append(run_id)
    for day in files.days(root, "runs"):
        left.visible.update(run_id for path in files.of_day(day) for run_id in files.runs_or_name(path))
    there = [run_id for run_id in left.abandoned if (root / SHARDS / run_id).exists()]
    left.leftover = [run_id for run_id in there if run_id in left.visible]
    left.abandoned = [run_id for run_id in there if run_id not in left.visible]
    for table in TABLES:
        paths = [root / table / name for name in folders.listed(root / table)]
        left.temporaries += [path for path in paths if _is_left(path, left, bound)]
        for day in files.days(root, table):
            names = folders.listed(day)
            left.temporaries += [day / name for name in names if _is_left(day / name, left, bound)]
            paths = [day / name for name in names if files.is_table(name)]
            if len(files.without_copies(paths)) < len(paths):
                left.copies.append((table, day))
    probes = (root / name for name in folders.listed(root) if name.startswith(".probe-"))
    left.temporaries += [path for path in probes if _is_old(path, bound)]
    return left


def _alive(folder: Path, shards: Sequence[ShardContent], bound: float) -> bool:
    return any(_written(folder / f"{shard.name}.jsonl", shard, bound) for shard in shards) or (
        not shards and _modified(folder) > bound
    )


def _written(path: Path, shard: ShardContent, bound: float) -> bool:
    """Whether somebody may still write to a shard."""
    known = [lives(writer) for writer in shard.writers]
    if True in known:
        return True
    gone = known and None not in known
    return not gone and "status" not in shard.rank and _modified(path) > bound


def _modified(path: Path) -> float:
    """0 where it is gone."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_left(path: Path, left: Left, bound: float) -> bool:
    if not folders.is_temporary(path.name):
        return False
    run_id = path.name[1:].partition(".parquet")[0]
    # We hold the lock that a compaction holds.
    known = run_id in left.visible or run_id in left.abandoned or run_id.startswith(files.COMPACTED)
    return known or (run_id not in left.live and _is_old(path, bound))


def _is_old(path: Path, bound: float) -> bool:
    """Not so of a file that has got its name since it was listed."""
    return 0 < _modified(path) <= bound


def tell(left: Left) -> list[Finding]:
    """What `mend` would do, not done."""
    cut_off = "was cut off before its rows were written: results.check --recover writes them"
    return [
        *(Finding(run_id, cut_off) for run_id in left.abandoned),
        *(
            Finding(run_id, "is recorded and its shards are still there: --recover drops them")
            for run_id in left.leftover
        ),
        *_foreign(left),
        *(Finding(str(path), "was left half written: --recover removes it") for path in left.temporaries),
        *(Finding(str(folder), "holds copies of merged rows: --recover removes them") for _, folder in left.copies),
    ]


def mend(root: Path, left: Left) -> list[Finding]:
    """Finishes what can be finished. The store is locked for changing."""
    store = Store(root)
    found = [_recover(store, run_id) for run_id in left.abandoned]
    found += [_finish(store, run_id) for run_id in left.leftover]
    found += _foreign(left)
    for path in left.temporaries:
        with folders.opened(root, *path.parent.relative_to(root).parts, make=False) as folder:
            os.unlink(path.name, dir_fd=folder)
        found.append(Finding(str(path), "was left half written and is removed", mended=True))
    for table, day in left.copies:
        count = drop_copies(root, table, day)
        text = f"{count} copies of merged rows are removed" if count else "copies stay: the merged file is damaged"
        found.append(Finding(str(day), text, mended=count > 0))
    return found


def _foreign(left: Left) -> list[Finding]:
    return [Finding(str(path), "is not the folder of a run") for path in left.foreign]


def _finish(store: Store, run_id: str) -> Finding:
    """What `Store.commit` does after the rows are written, if they can be read: else the shards are the only copy."""
    evaluated = any(shard.evals for shard in store.read_shards(run_id))
    for table in TABLES_OF_RUNS if evaluated else RUN_TABLES:
        held = [path for day in files.days(store.root, table) for path in files.of_day(day)]
        mine = [path for path in held if run_id in files.runs_or_name(path)]
        if not mine or any(files.fault(path, table) for path in mine):
            return Finding(run_id, f"is recorded, but its rows of {table!r} are damaged or missing: its shards stay")
    try:
        for day in files.days(store.root, "runs"):
            if any(run_id in files.runs_or_name(path) for path in files.of_day(day)):
                rows = files.rows_of_day(day, ["run_id", "experiment", "sweep_task", "status"])
                store.note_finished(row for row in rows if row["run_id"] == run_id)
    except OSError as error:
        return Finding(run_id, f"is recorded, but its sweep cannot be told so: its shards stay ({_why(error)})")
    store.discard(run_id)
    return Finding(run_id, "was recorded; its shards are dropped", mended=True)


def _recover(store: Store, run_id: str) -> Finding:
    shards = store.read_shards(run_id)
    if not any(shard.run or shard.rank or shard.iters or shard.telemetry for shard in shards):
        store.discard(run_id)
        return Finding(run_id, "was cut off before it said anything and is dropped", mended=True)
    folder = store.root / SHARDS / run_id
    last_sign = max(_modified(folder / f"{shard.name}.jsonl") for shard in shards)
    try:
        if not any("started_at" in shard.run for shard in shards):
            shards = [ShardContent(RUN_SHARD, run=_unsaid(run_id, shards)), *shards]
        ended_at = datetime.fromtimestamp(last_sign, timezone.utc)
        tables = conclude(run_id, shards, Ending(unwatched=_LOST), ended_at)
        (row,) = tables["runs"]
        if could_not_start(tables):
            store.discard(run_id)
            return Finding(run_id, f"could not start ({row['error']}) and is dropped", mended=True)
        store.commit(run_id, row["started_at"], tables)
    except (OSError, StoreError, ValueError, TypeError) as error:
        return Finding(str(folder), f"cannot be made into rows and stays ({_why(error)})")
    return Finding(
        run_id, f"was cut off and is recorded as {row['status']}: {len(tables['iters'])} iterations", mended=True
    )


def _why(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _unsaid(run_id: str, shards: Sequence[ShardContent]) -> dict[str, Any]:
    """What the launcher did not live to say. Raises ValueError for a name that is not of a run."""
    started_at = datetime.strptime(run_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
    reasons = dict.fromkeys(("strategy", "model", "dataset", "num_devices", "device_kind"), "the launcher left no word")
    return {
        "schema_version": SCHEMA_VERSION,
        "measurement_version": MEASUREMENT_VERSION,
        "started_at": started_at.timestamp(),
        "num_processes": 1 + max((int(shard.rank.get("rank", 0)) for shard in shards), default=0),
        "synchronous": None,
        "device_kind": None,
        "config": {},
        "null_reasons": reasons,
    }
