"""Many small files become one for each table and day, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.load import Results
from analysis.options import Selection
from results import compact as compaction
from results import files
from results.check import check
from results.compact import compact, main
from results.maintenance import alone
from results.schema import RUN_TABLES, SCHEMA_VERSION, arrow_schema
from results.store import Store, StoreError
from tests.benchmark import ROOT
from tests.synthetic_store import START, add_run

LATER = date(2030, 1, 1)
SCHEMAS = [ROOT / "tests" / "fixtures" / f"schema-{version}" for version in range(1, SCHEMA_VERSION)]


def fill(root: Path, runs: int = 6) -> None:
    for number in range(runs):
        day = START + timedelta(days=number % 2)
        add_run(root, [0.1, 0.2], num_processes=2, num_devices=2, samples=3, started_at=day, strategy="mwms")


def single_files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*.parquet")) if not path.name.startswith(files.COMPACTED)]


def sound(root: Path) -> bool:
    return check(root, recover=False, older_than_s=0)[1] == []


def everything(root: Path) -> pd.DataFrame:
    return Results(Selection(results_dir=(str(root),))).runs


def test_no_row_is_lost_and_every_reader_finds_them(tmp_path: Path) -> None:
    fill(tmp_path)
    before = everything(tmp_path)
    rows = {table: len(pd.read_parquet(tmp_path / table)) for table in RUN_TABLES}
    done = compact(tmp_path, LATER)
    assert (done.merged, done.into, done.left) == (24, 8, [])
    assert single_files(tmp_path) == []
    assert everything(tmp_path).equals(before)
    for table in RUN_TABLES:
        assert len(pd.read_parquet(tmp_path / table)) == rows[table]
        counted = duckdb.execute("select count(*) from read_parquet(?)", [f"{tmp_path}/{table}/**/*.parquet"])
        assert counted.fetchall() == [(rows[table],)]
    assert sound(tmp_path)
    assert (compact(tmp_path, LATER).merged, sound(tmp_path)) == (0, True)


def test_a_late_run_joins_the_merged_file_of_its_day(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    compact(tmp_path, LATER)
    add_run(tmp_path, [0.3], run_id="late", samples=2)
    assert len(everything(tmp_path)) == 5
    assert compact(tmp_path, LATER).into == 4
    assert sorted(everything(tmp_path)["run_id"])[-1] == "late"
    assert len(list((tmp_path / "runs").rglob("*.parquet"))) == 2
    assert sound(tmp_path)


def test_only_days_that_have_ended_long_enough_ago_are_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(timezone.utc)
    for age_days in (0, 0, 1, 1, 2, 2, 3, 3):
        add_run(tmp_path, started_at=now - timedelta(days=age_days))
    assert main([f"--results-dir={tmp_path}"]) == 0
    assert "16 files are now 8" in capsys.readouterr().out
    assert main([f"--results-dir={tmp_path}", "--older-than-days=0"]) == 0
    assert "8 files are now 4" in capsys.readouterr().out
    today = tmp_path / "runs" / f"date={now:%Y-%m-%d}"
    assert len(list(today.iterdir())) == 2
    assert main([f"--results-dir={tmp_path}", "--older-than-days=-1"]) == 2
    assert "--older-than-days -1: give 0" in capsys.readouterr().err
    assert main([f"--results-dir={tmp_path}", "--older-than-days=1000000"]) == 2
    assert "--older-than-days 1000000: give 0 for all days before today, up to 7" in capsys.readouterr().err


def test_the_newest_run_is_found_in_merged_files(tmp_path: Path) -> None:
    for number, task in enumerate(("a", "b", "a")):
        add_run(tmp_path, run_id=f"2026050{number + 1}T", sweep_task=task)
    (tmp_path / "runs" / "date=2026-05-01" / "foreign.parquet").write_text("?")
    store = Store(tmp_path)
    for _ in range(2):
        assert store.newest_run(sweep_task="a") == "20260503T"
        assert store.newest_run(sweep_task="b") == "20260502T"
        assert store.newest_run(sweep_task="c") is None
        compact(tmp_path, LATER)


class Stopped(BaseException):
    """Like a kill: nothing catches it."""


def calls_of(root: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int | None) -> int:
    """Compacts, stopped at a certain one of the calls that change the folder; returns how many there were."""
    count = 0

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            if stop_at is not None and count >= stop_at:
                raise Stopped
            count += 1
            return real(*args, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "unlink", "fsync"):
            patched.setattr(os, name, counting(getattr(os, name)))
        with contextlib.suppress(Stopped):
            compact(root, LATER)
    return count


def test_wherever_it_is_stopped_readers_see_every_run_once_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (origin := tmp_path / "origin").mkdir()
    for step in (0.1, 0.2):
        add_run(origin, [step])
    expected = everything(origin)
    total = calls_of(shutil.copytree(origin, tmp_path / "whole"), monkeypatch, None)
    assert total > 20
    for stop_at in range(total):
        root = shutil.copytree(origin, tmp_path / str(stop_at))
        assert calls_of(root, monkeypatch, stop_at) == stop_at
        assert everything(root).equals(expected), stop_at
        check(root, recover=True, older_than_s=0)
        assert sound(root), stop_at
        assert not pd.read_parquet(root / "iters").duplicated(["run_id", "rank", "iter"]).any()
        compact(root, LATER)
        assert single_files(root) == []
        assert sorted(pd.read_parquet(root / "runs")["run_id"]) == [*expected["run_id"]]


def test_a_merged_file_that_is_damaged_costs_no_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 4)
    with monkeypatch.context() as patched:
        patched.setattr(compaction, "_remove", lambda *_: None)
        compact(tmp_path, LATER)
    (merged, _) = sorted((tmp_path / "iters").rglob(f"{files.COMPACTED}*"))
    flip(merged)
    compact(tmp_path, LATER)
    assert [path.name for path in single_files(tmp_path)] == ["R00000.parquet", "R00002.parquet"]
    findings = check(tmp_path, recover=True, older_than_s=0)[1]
    assert {finding.path for finding in findings} == {str(merged.parent), str(merged)}
    assert not any(finding.mended for finding in findings)


def flip(path: Path, offset: int | None = None) -> None:
    """Changes one bit of a column's data."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start + column.total_compressed_size - 1 if offset is None else offset] ^= 1
    path.write_bytes(raw)


def test_what_is_damaged_or_foreign_is_left_alone_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 6)
    day = tmp_path / "iters" / "date=2026-05-01"
    flip(day / "R00002.parquet")
    (day / "R00000.parquet").rename(day / "R00000.parquet.bak")
    ranks = tmp_path / "ranks" / day.name
    (ranks / "R00000.parquet").write_bytes((ranks / "R00004.parquet").read_bytes())
    assert main([f"--results-dir={tmp_path}"]) == 3
    said = capsys.readouterr()
    assert "left alone" in said.err
    assert "R00002.parquet: cannot be read" in said.err
    assert "R00000.parquet: holds rows of R00004, which it does not say" in said.err
    assert {path.name for path in day.iterdir()} == {"R00000.parquet.bak", "R00002.parquet", "R00004.parquet"}


def test_rows_of_a_run_that_cannot_be_seen_yet_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    (tmp_path / "runs" / "date=2026-05-01" / "R00004.parquet").unlink()
    compact(tmp_path, LATER)
    left = {str(path.relative_to(tmp_path).parent.parent) for path in single_files(tmp_path)}
    assert left == {"ranks", "iters", "telemetry"}


def test_one_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 4)
    with alone(tmp_path, changing=True):
        with pytest.raises(StoreError, match=r"another results.compact or results.check is at work"):
            compact(tmp_path, LATER)
        assert main([f"--results-dir={tmp_path}"]) == 3
    assert capsys.readouterr().err.count("\n") == 1
    assert main([f"--results-dir={tmp_path / 'none'}"]) == 3
    assert "there is no results directory" in capsys.readouterr().err


def test_readers_that_listed_the_files_before_read_what_they_became(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 6)
    expected = everything(tmp_path)
    listed = Results._listed
    calls: list[int] = []

    def list_and_let_another_compact(results: Results) -> Any:
        found = listed(results)
        if not calls:
            compact(tmp_path, LATER)
        calls.append(1)
        return found

    monkeypatch.setattr(Results, "_listed", list_and_let_another_compact)
    results = Results(Selection(results_dir=(str(tmp_path),)))
    assert results.runs.equals(expected)
    assert results.skipped == []
    assert len(calls) == 2


@pytest.mark.parametrize("merged", [False, True])
def test_rows_of_every_schema_version_read_together(tmp_path: Path, merged: bool) -> None:
    for folder in SCHEMAS:
        for path in folder.rglob("*.parquet"):
            target = tmp_path / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    started = datetime(2026, 12, 1, 18, tzinfo=timezone.utc)
    add_run(
        tmp_path, [0.1], run_id="20261201T180000-0", strategy="mwms", started_at=started, num_processes=2, num_devices=2
    )
    if merged:
        assert compact(tmp_path, LATER).into == 2 * 4  # of two days
    assert sound(tmp_path)
    results = Results(Selection(results_dir=(str(tmp_path),)))
    runs = results.runs
    assert runs["schema_version"].tolist() == [*range(1, SCHEMA_VERSION + 1)]
    assert runs["status"].tolist() == ["ok"] * SCHEMA_VERSION
    assert runs["label"].tolist()[:-1] == [f"schema {version}" for version in range(1, SCHEMA_VERSION)]
    # What was measured does not depend on the version that wrote it; who was slowest came with the fourth.
    known = pd.read_parquet(SCHEMAS[0] / "iters").query("not warmup")
    window_s = ((known["t_start_ns"] + known["duration_s"] * 1e9).max() - known["t_start_ns"].min()) / 1e9
    assert runs["images_per_s"][0] == pytest.approx(3 * 2 * 16 / window_s)
    assert (runs["images_per_s"] > 0).all()
    assert runs["slowest_rank"].isna().tolist() == [True, True, True, False, False, False, True]
    assert runs["comparability_key"].nunique() <= 4  # threads came with the third, and the last two are other machines'
    results.read_raw("iters", runs["run_id"])
    assert results.tables.rows("select count(*) from raw_iters") == [(6 * 10 + 2 * 2,)]
    if merged:
        days = [pq.ParquetFile(path).read() for path in sorted((tmp_path / "runs").rglob("*.parquet"))]
        assert all(day.schema.equals(arrow_schema("runs"), check_metadata=False) for day in days)
        hosts = [row["hostname"] for day in days for row in day["provenance"].to_pylist()]
        assert hosts == ["node0"] * 6 + ["h"]
        assert days[0]["exchange"].to_pylist()[0] is None


def test_large_tables_are_merged_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_ROWS_AT_ONCE", 10)
    fill(tmp_path, 6)
    rows = pa.concat_tables(
        pq.ParquetFile(p).read() for p in sorted((tmp_path / "iters" / "date=2026-05-01").iterdir())
    )
    compact(tmp_path, LATER)
    (path,) = (tmp_path / "iters" / "date=2026-05-01").iterdir()
    with pq.ParquetFile(path) as file:
        assert file.read().equals(rows)
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [10, 2, 6]
        assert files.runs_of(path) == {"R00000", "R00002", "R00004"}
