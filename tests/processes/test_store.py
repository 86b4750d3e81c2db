"""The store under real processes: many at once, killed at any moment, on a disk that is full."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from analysis.load import Results
from analysis.options import Selection
from results.check import check
from results.compact import compact
from results.compact import main as main_of_compact
from results.record import Ending, conclude
from results.store import Store
from tests.benchmark import MAY_MOUNT, ROOT
from tests.store_writers import ITERS, RANKS, loss
from tests.synthetic_store import START, add_run

pytestmark = pytest.mark.processes

LATER = date(2100, 1, 1)


@contextlib.contextmanager
def writers(root: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """The processes; at the end of the block they have ended, well."""
    command = [sys.executable, "-m", "tests.store_writers", str(root), str(reports_of(root)), *flags]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()


def reports_of(root: Path) -> Path:
    return root.with_name(f"{root.name}.reports")


def reported(root: Path) -> tuple[set[str], set[tuple[str, int, int]]]:
    """(runs that were finished, lines that were written), as the writers said it before they were killed."""
    path = reports_of(root)
    said = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {each[1] for each in said if each[0] == "finished"}, {tuple(each[1:]) for each in said if each[0] == "line"}


def assert_whole(iters: pd.DataFrame, runs: set[str]) -> None:
    """Every row is one that was written, once, and of these runs all are there."""
    assert not iters.duplicated(["run_id", "rank", "iter"]).any()
    first = iters["run_id"].map({run_id: loss(run_id, 0, 0) for run_id in iters["run_id"].unique()})
    assert (iters["loss"] == first + iters["rank"] + iters["iter"] / 8).all()
    sizes = iters.groupby("run_id").size()
    assert {run_id for run_id in runs if sizes.get(run_id) != RANKS * ITERS} == set()


def read_once(root: Path) -> None:
    """As users read: a run that is visible is complete, and a finished one is visible."""
    finished, _ = reported(root)
    if not finished:
        return
    runs = pd.read_parquet(root / "runs")
    assert finished <= set(runs["run_id"])
    assert_whole(pd.read_parquet(root / "iters"), set(runs["run_id"][runs["status"] == "ok"]))
    glob = f"{root}/runs/**/*.parquet"
    counted = duckdb.execute("select count(*), count(distinct run_id) from read_parquet(?)", [glob]).fetchall()
    ((rows, distinct),) = counted
    assert rows == distinct >= len(runs)


def assert_complete(root: Path) -> None:
    """Nobody writes any more: all that was reported is there, and nothing is wrong."""
    finished, lines = reported(root)
    _, found = check(root, recover=True, older_than_s=0)
    assert [finding for finding in found if not finding.mended] == []
    counts, found = check(root, recover=False, older_than_s=0)
    assert (counts.live, found) == (0, [])
    runs, iters = pd.read_parquet(root / "runs"), pd.read_parquet(root / "iters")
    assert not runs["run_id"].duplicated().any()
    assert finished <= set(runs["run_id"][runs["status"] == "ok"])
    assert finished <= Store(root).finished_tasks("e")
    assert_whole(iters, finished)
    assert lines <= set(iters[["run_id", "rank", "iter"]].itertuples(index=False, name=None))
    assert sorted(path.name for path in root.iterdir() if path.name.startswith(".")) == [".maintenance", ".sweeps"]


@contextlib.contextmanager
def disk(mount: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    if not MAY_MOUNT:
        pytest.skip("only root may mount a file system")
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A results directory where fsync costs nothing: what a kill leaves does not depend on it."""
    with disk(tmp_path / "disk", "256m") as mounted:
        yield mounted / "data"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path / "disk", "1m") as mounted:
        yield mounted


def test_sixty_four_writers_at_once(root: Path) -> None:
    with writers(root, "--writers=64", "--runs=1") as process:
        while process.poll() is None:
            read_once(root)
    assert len(reported(root)[0]) == 64
    read_once(root)
    assert len(pd.read_parquet(root / "runs")) == 64
    assert_complete(root)


def test_two_hundred_kills_lose_nothing_that_was_written(root: Path) -> None:
    """With readers going on, and with `results.check --recover`, which leaves alone who is alive."""
    with writers(root, "--writers=2", "--kills=200", "--seed=7") as process:
        while process.poll() is None:
            read_once(root)
            if root.exists():
                check(root, recover=True, older_than_s=3600)
    finished, lines = reported(root)
    assert len(finished) > 10
    assert len(lines) > len(finished) * RANKS * ITERS  # some were cut off within a run
    assert_complete(root)
    statuses = pd.read_parquet(root / "runs")["status"]
    assert {"ok", "lost"} <= set(statuses)


def test_a_compaction_that_is_killed_while_runs_end_costs_no_run(root: Path) -> None:
    reads = 0
    with writers(root, "--writers=2", "--kills=60", "--seed=11", "--compact") as process:
        while process.poll() is None:
            finished, _ = reported(root)
            if not finished:
                continue
            results = Results(Selection(results_dir=(str(root),)))
            assert results.skipped == []
            assert finished <= set(results.runs["run_id"])
            assert not results.runs["run_id"].duplicated().any()
            assert (results.runs.set_index("run_id")["images_per_s"][[*finished]] > 0).all()
            reads += 1
    assert reads
    assert_complete(root)
    compact(root, LATER)
    assert_complete(root)
    assert len(list((root / "runs").rglob("*.parquet"))) == len(list((root / "runs").glob("date=*")))


def fill_up(disk: Path) -> Path:
    """Takes all the room that is left; to remove it makes room again."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(b"x" * 512):
            pass
    return ballast


def fields() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "started_at": START.timestamp(),
        "config": {},
        "num_processes": 1,
        "synchronous": True,
        "device_kind": "cpu",
    }


def test_a_full_disk_costs_at_most_the_line_that_did_not_fit(small_disk: Path) -> None:
    store = Store(small_disk / "data")
    run, rank = store.open_shard("R", "run"), store.open_shard("R", "rank-00000")
    run.update_run(**fields())
    rank.update_rank(rank=0)
    written = []
    with pytest.raises(OSError, match="No space left"):
        for number in range(100_000):
            rank.add_iter({"iter": number, "warmup": False, "t_start_ns": number, "duration_s": 1.0, "loss": 0.5})
            written.append(number)
    assert len(written) > 1000
    assert [row["iter"] for row in store.read_shards("R")[0].iters] == written
    tables = conclude("R", store.read_shards("R"), Ending(), datetime.now(timezone.utc))
    with pytest.raises(OSError, match="No space left"):
        store.commit("R", START, tables)
    assert [path for path in (small_disk / "data").rglob("*") if ".parquet" in path.name] == []
    assert len(store.read_shards("R")[0].iters) == len(written)
    # There is room again, because the disk grows: this process and others go on.
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    rank.add_iter({"iter": -1, "warmup": False, "t_start_ns": -1, "duration_s": 1.0, "loss": 0.5})
    rank.update_rank(status="ok", weight_digests=["a"])
    assert [row["iter"] for row in store.read_shards("R")[0].iters] == [*written, -1]
    store.commit("R", START, conclude("R", store.read_shards("R"), Ending(), datetime.now(timezone.utc)))
    assert len(pd.read_parquet(small_disk / "data" / "iters")) == len(written) + 1
    run.close()
    rank.close()


def test_on_a_full_disk_nothing_is_recovered_or_merged_by_half(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_disk / "data"
    for step in (0.1, 0.2, 0.3):
        add_run(root, [step])
    store = Store(root)
    shard = store.open_shard("S", "run")
    shard.update_run(**fields())
    shard.close()
    # As if another process, which is dead, had written it.
    shard_file = root / ".shards" / "S" / "run.jsonl"
    shard_file.write_text("\n".join(line for line in shard_file.read_text().splitlines() if "writers" not in line))
    ballast = fill_up(small_disk)
    before = sorted(path for path in root.rglob("*.parquet"))
    assert main_of_compact([f"--results-dir={root}"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device; nothing is lost" in line
    _, found = check(root, recover=True, older_than_s=0)
    assert ["No space left" in finding.text for finding in found if not finding.mended] == [True]
    assert sorted(path for path in root.rglob("*.parquet")) == before
    assert list(root.rglob("*.tmp")) == []
    ballast.unlink()
    _, found = check(root, recover=True, older_than_s=0)
    assert [finding.text for finding in found] == ["was cut off and is recorded as lost: 0 iterations"]
    assert main_of_compact([f"--results-dir={root}"]) == 0
    assert sorted(pd.read_parquet(root / "runs")["run_id"]) == ["R00000", "R00001", "R00002", "S"]
    assert check(root, recover=False, older_than_s=0)[1] == []
