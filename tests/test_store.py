from __future__ import annotations

import hashlib
import os
import shutil
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from results import files
from results.check import check
from results.compact import compact
from results.schema import COMPARABLE_FIELDS, RUNS, TABLES, arrow_schema, comparability_key
from results.store import Store, StoreError
from tests.many_ranks import ITERS, SAMPLES, write_and_merge

NOW = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)


def run_row(run_id: str, **fields: Any) -> dict[str, Any]:
    return {"schema_version": 1, "run_id": run_id, "started_at": NOW, "status": "ok", **fields}


def test_a_shard_gives_back_what_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shard = store.open_shard("R", "rank-00000")
    shard.update_rank(rank=0, status="started")
    shard.update_rank(status="ok")
    shard.update_run(model="m", null_reasons={"a": "1"})
    shard.update_run(null_reasons={"b": "2"})
    shard.add_iter({"iter": 0, "loss": float("nan")})
    shard.add_telemetry({"t_ns": 1})
    shard.close()
    (content,) = store.read_shards("R")
    assert content.rank == {"rank": 0, "status": "ok"}
    assert content.run == {"model": "m", "null_reasons": {"a": "1", "b": "2"}}
    assert content.iters[0]["loss"] != content.iters[0]["loss"]
    assert content.telemetry == [{"t_ns": 1}]


def test_a_line_cut_short_by_a_kill_costs_that_line_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shard = store.open_shard("R", "rank-00000")
    for index in range(3):
        shard.add_iter({"iter": index})
    shard.close()
    (path,) = (tmp_path / ".shards" / "R").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert [row["iter"] for row in store.read_shards("R")[0].iters] == [0, 1]


def test_a_damaged_line_costs_that_line_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shard = store.open_shard("R", "run")
    shard.update_run(model="m", null_reasons=5)
    shard.close()
    path = tmp_path / ".shards" / "R" / "run.jsonl"
    damaged = [
        b"5",
        b'["run"]',
        b'["run",5]',
        b'{"run":1,"rank":2}',
        b'["name",{}]',
        b"[[],{}]",
        b"\xff",
        b"[" * 100_000,
    ]
    path.write_bytes(b"\n".join([path.read_bytes(), *damaged, b'["run",{"null_reasons":{"a":"b"}}]']))
    (content,) = store.read_shards("R")
    assert content.run == {"model": "m", "null_reasons": {"a": "b"}}


def test_words_that_are_no_text_cost_no_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shard = store.open_shard("R", "run")
    shard.update_run(error="no file a\udcff, 5 \u00b5s")
    shard.close()
    (content,) = store.read_shards("R")
    store.commit("R", NOW, {"runs": [run_row("R", **content.run)]})
    assert pd.read_parquet(tmp_path / "runs")["error"].tolist() == ["no file a?, 5 \u00b5s"]


def test_what_was_written_can_be_read_after_somebody_has_removed_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    mine, theirs = store.open_shard("R", "rank-00000"), store.open_shard("R", "rank-00000")
    theirs.add_iter({"iter": 0})
    shutil.rmtree(tmp_path / "data")
    theirs.add_iter({"iter": 1})
    assert [row["iter"] for row in mine.content().iters] == [0, 1]
    assert store.read_shards("R") == []


def test_the_newest_run_is_found_beside_damaged_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit("A", NOW, {"runs": [run_row("A", experiment="e")]})
    folder = next((tmp_path / "runs").glob("date=*"))
    (folder / "B.parquet").write_bytes(b"")
    (folder / "C.parquet").write_bytes((folder / "A.parquet").read_bytes()[:-20])
    assert store.newest_run(experiment="e") == "A"


def test_a_day_to_which_runs_come_all_the_time_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.commit("R0", NOW, {"runs": [run_row("R0")]})
    of_day, looks = files.of_day, 0

    def of_busy_day(folder: Path) -> list[Path]:
        nonlocal looks
        looks += 1
        assert looks < 10
        found = of_day(folder)
        store.commit(f"R{looks}", NOW, {"runs": [run_row(f"R{looks}")]})
        return found

    monkeypatch.setattr(files, "of_day", of_busy_day)
    (day,) = (tmp_path / "runs").glob("date=*")
    assert files.rows_of_day(day, ["run_id"]) == [{"run_id": "R0"}]


def test_rows_that_are_merged_while_they_are_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for run_id in ("A", "B"):
        store.commit(run_id, NOW, {"runs": [run_row(run_id)]})
    of_day, looks = files.of_day, 0

    def merged_after_it(folder: Path) -> list[Path]:
        nonlocal looks
        found, looks = of_day(folder), looks + 1
        if looks == 1:
            compact(tmp_path, (NOW + timedelta(days=2)).date())
        return found

    (day,) = (tmp_path / "runs").glob("date=*")
    with monkeypatch.context() as patched:
        patched.setattr(files, "of_day", merged_after_it)
        assert files.rows_of_day(day, ["run_id"]) == [{"run_id": "A"}, {"run_id": "B"}]


def test_threads_share_a_shard_without_mixing_lines(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shard = store.open_shard("R", "rank-00000")

    def write(who: int) -> None:
        for index in range(200):
            shard.add_iter({"who": who, "iter": index, "padding": "x" * 200})

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = store.read_shards("R")[0].iters
    assert len(rows) == 800
    for who in range(4):
        assert [row["iter"] for row in rows if row["who"] == who] == list(range(200))


def test_a_shard_never_follows_a_planted_link(tmp_path: Path) -> None:
    target = tmp_path / "victim"
    target.write_text("precious")
    (tmp_path / ".shards" / "R").mkdir(parents=True)
    (tmp_path / ".shards" / "R" / "rank-00000.jsonl").symlink_to(target)
    with pytest.raises(OSError):
        Store(tmp_path).open_shard("R", "rank-00000")
    assert target.read_text() == "precious"


@pytest.mark.parametrize(
    "name",
    [
        ".shards",
        ".shards/R",
        ".shards/R/run.jsonl",
        "runs",
        "runs/date=2026-05-01",
        "runs/date=2026-05-01/.R.parquet.aa.tmp",
        ".probe-aa",
        ".sweeps",
        f".sweeps/{hashlib.sha256(b'e').hexdigest()[:16]}",
        f".sweeps/{hashlib.sha256(b'e').hexdigest()[:16]}/task",
        ".maintenance",
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_no_planted_link_is_followed_out_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """Whatever stands there: outside nothing is made, changed or removed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "R").mkdir()
    (outside / "R" / "run.jsonl").write_text("precious")
    (outside / "file").write_text("precious")
    before = sorted((path, path.lstat().st_mtime_ns) for path in outside.rglob("*"))
    link = tmp_path / "data" / name
    link.parent.mkdir(parents=True)
    link.symlink_to({"file": outside / "file", "folder": outside, "nothing": outside / "new"}[kind])
    monkeypatch.setattr("secrets.token_hex", lambda _: "aa")
    store = Store(tmp_path / "data")
    row = run_row("R", experiment="e", sweep_task="task")

    def write_shard() -> None:
        shard = store.open_shard("R", "run")
        shard.update_run(model="m")
        shard.close()

    refused = 0
    for act in (
        store.prepare,
        write_shard,
        lambda: store.commit("R", NOW, {"runs": [row]}),
        lambda: store.discard("R"),
        lambda: check(store.root, recover=True, older_than_s=0),
        lambda: compact(store.root, NOW.date() + timedelta(days=9)),
    ):
        try:
            act()
        except (OSError, StoreError):
            refused += 1
    assert refused
    assert sorted((path, path.lstat().st_mtime_ns) for path in outside.rglob("*")) == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\0b"])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "data")
    with pytest.raises(OSError, match="cannot be the name"):
        store.open_shard(name, "run")
    with pytest.raises(OSError, match="cannot be the name"):
        store.open_shard("R", name)
    if name:
        with pytest.raises(OSError, match="cannot be the name"):
            store.note_finished([run_row("R", experiment="e", sweep_task=name)])


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o027, 0o640, 0o750), (0o002, 0o664, 0o775)])
def test_files_are_made_with_the_users_umask(tmp_path: Path, umask: int, file_mode: int, folder_mode: int) -> None:
    root = tmp_path / "data"
    store = Store(root)
    before = os.umask(umask)
    try:
        store.prepare()
        store.open_shard("A", "run").close()
        for run_id in "BC":
            store.commit(run_id, NOW, {"runs": [run_row(run_id, experiment="e", sweep_task="t")]})
        compact(root, NOW.date() + timedelta(days=9))
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (root, *root.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {folder_mode}
    assert {mode for path, mode in modes.items() if path.is_file()} == {file_mode}


def test_half_a_line_hides_none_that_comes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes the start of a line; later there is room again, for this process or for another."""
    store = Store(tmp_path)
    shard = store.open_shard("R", "rank-00000")
    shard.add_iter({"iter": 0})
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, line: real(fd, line[: len(line) - 1]))
        with pytest.raises(OSError, match="No space left"):
            shard.add_iter({"iter": 1})
    shard.add_iter({"iter": 2})
    shard.close()
    (path,) = (tmp_path / ".shards" / "R").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    again = store.open_shard("R", "rank-00000")
    again.add_iter({"iter": 3})
    again.close()
    path.write_bytes(path.read_bytes() + b'\n[1]\n{}\n["aura", {}]\n["iters", 7]\nnull\n\xff')
    (content,) = store.read_shards("R")
    assert [row["iter"] for row in content.iters] == [0, 3]
    assert len(content.writers) == 2


def test_committed_tables_are_read_by_pandas_and_duckdb(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open_shard("A", "rank-00000").close()
    provenance = {"hostname": "h", "environment": {"OMP_NUM_THREADS": "1"}, "gpus": [{"name": "g"}]}
    store.commit("A", NOW, {"runs": [run_row("A", provenance=provenance)], "iters": [{"run_id": "A", "rank": 0}]})
    store.commit("B", NOW, {"runs": [run_row("B")], "iters": []})
    runs = pd.read_parquet(tmp_path / "runs").sort_values("run_id")
    assert list(runs["run_id"]) == ["A", "B"]
    assert runs.iloc[0]["provenance"]["hostname"] == "h"
    assert runs["model"].isna().all()
    assert str(runs["started_at"].dtype).startswith("datetime64")
    assert [p.name for p in (tmp_path / "runs" / "date=2026-05-01").iterdir()] != []
    counted = duckdb.execute("select count(*) from read_parquet(?)", [f"{tmp_path}/runs/**/*.parquet"]).fetchall()
    assert counted == [(2,)]
    assert not (tmp_path / ".shards").exists()
    written = pq.read_schema(tmp_path / "iters" / "date=2026-05-01" / "A.parquet")
    assert written.equals(arrow_schema("iters"), check_metadata=False)


def test_runs_come_last_so_that_a_visible_run_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr("results.store._write_parquet", lambda folder, name, table, rows: order.append(table))
    Store(tmp_path).commit("A", NOW, {name: [] for name in TABLES})
    assert order[-1] == "runs"
    assert sorted(order) == sorted(TABLES)


def test_a_failed_write_leaves_no_half_file_and_keeps_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.open_shard("A", "rank-00000").close()

    def full_disk(table: Any, file: IO[bytes], **_options: Any) -> None:
        file.write(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.commit("A", NOW, {"runs": [run_row("A")]})
    assert not list(tmp_path.rglob(".*.tmp")) + list(tmp_path.rglob("*.parquet"))
    assert len(store.read_shards("A")) == 1


def test_a_thousand_ranks_lose_nothing_and_leave_one_file_a_table(tmp_path: Path) -> None:
    ranks = 1024
    tables = write_and_merge(Store(tmp_path), ranks)
    assert tables["runs"][0]["status"] == "ok"
    files = sorted(path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file())
    assert files == [table for table in ("iters", "ranks", "runs", "telemetry") for _ in ("its rows", "0-columns")]
    iters = pd.read_parquet(tmp_path / "iters")
    assert len(iters) == ranks * ITERS
    assert (iters.groupby("rank")["loss"].unique().str[0] == pd.Series(range(ranks))).all()
    assert (iters["t_start_ns"] == iters["iter"] * 10**9).all()  # on rank 0's clock
    telemetry = pd.read_parquet(tmp_path / "telemetry")
    assert len(telemetry) == ranks * SAMPLES
    peaks = pd.read_parquet(tmp_path / "ranks").set_index("rank")["gpu_peak_mem_used_bytes"]
    # The last sample within the timed iterations, which end after 9.9 s.
    assert (peaks == [rank + 19 for rank in range(ranks)]).all()


def test_a_run_of_a_sweep_is_found_again_only_when_it_is_ok(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run_id, status, task in (("r1", "failed", "a-1"), ("r2", "ok", "a-2"), ("r3", "ok", None)):
        row = {"run_id": run_id, "experiment": "../e", "status": status, "sweep_task": task, "job_id": "7"}
        store.commit(run_id, NOW, {"runs": [row]})
    assert store.finished_tasks("../e") == {"a-2"}
    assert store.finished_tasks("e") == set()
    assert store.newest_run(job_id="7") == "r3"
    assert store.newest_run(job_id="7", status="failed") == "r1"
    assert store.newest_run(job_id="8") is None
    shard = store.open_shard("r4", "run")
    shard.update_run(job_id="8")
    shard.close()
    assert store.newest_run(job_id="8") == "r4"  # cut off, and its rows not yet merged


def test_a_row_with_a_column_that_the_schema_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no column.*speed"):
        Store(tmp_path).commit("A", NOW, {"runs": [run_row("A", speed=3)]})


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_a_directory_that_cannot_be_written_is_found_at_once(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" if what == "a file" else tmp_path / "file" / "data"
    with pytest.raises(StoreError, match=r"cannot be written.*--results-dir"):
        Store(root).prepare()


def test_preparing_leaves_nothing_but_the_directory(tmp_path: Path) -> None:
    Store(tmp_path / "new").prepare()
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


@pytest.mark.parametrize("field", COMPARABLE_FIELDS)
def test_the_comparability_key_changes_with_each_of_its_fields(field: str) -> None:
    assert field in {column.name for column in RUNS}
    row = dict.fromkeys(COMPARABLE_FIELDS, 1)
    assert comparability_key(row) == comparability_key(dict(reversed(row.items())))
    assert comparability_key(row) != comparability_key(row | {field: 2})
    assert comparability_key(row) == comparability_key(row | {"label": "other"})


def test_every_column_says_what_it_means_and_units_stand_in_names() -> None:
    for table in ("runs", "iters", "telemetry"):
        for column in TABLES[table]:
            assert column.meaning or column.name in ("run_id", "rank", "power_w", "temperature_c", "sm_clock_mhz")
    for columns in TABLES.values():
        names = [column.name for column in columns]
        assert len(names) == len(set(names))
