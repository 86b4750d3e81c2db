"""Every way in which a store can be wrong is found and named, and what a crash left is finished."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results import folders
from results.check import check, main
from results.finding import Finding
from results.schema import SCHEMA_VERSION, arrow_schema
from results.store import Shard, Store, StoreError
from results.writers import lives, myself
from tests.synthetic_store import START, add_run
from tests.test_compact import flip

DAY = "date=2026-05-01"
ELSEWHERE = {"hostname": "another", "machine": "another boot", "pid": 1, "start_ticks": 1}


def found(root: Path, *, recover: bool = False, older_than_s: float = 3600) -> list[Finding]:
    return check(root, recover=recover, older_than_s=older_than_s)[1]


def said(root: Path, **options: Any) -> dict[str, str]:
    """Path below the root, or run, -> what is wrong with it."""
    return {finding.path.removeprefix(f"{root}/"): finding.text for finding in found(root, **options)}


def open_dead(store: Store, run_id: str, name: str, monkeypatch: pytest.MonkeyPatch, **writer: Any) -> Shard:
    """A shard of a process that has ended, on this machine unless `writer` says otherwise."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with monkeypatch.context() as patched:
        patched.setattr("results.store.myself", lambda: {**myself(), "pid": ended.pid, **writer})
        return store.open_shard(run_id, name)


def write_run(
    store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch, *ranks: dict[str, Any], iters: int = 3, **writer: Any
) -> None:
    """The shards of a run of two ranks whose launcher is dead."""
    shard = open_dead(store, run_id, "run", monkeypatch, **writer)
    shard.update_run(
        schema_version=SCHEMA_VERSION,
        experiment="e",
        sweep_task="k-1",
        started_at=START.timestamp(),
        config={"seed": 1},
        num_processes=2,
        synchronous=True,
        device_kind="cpu",
    )
    shard.close()
    for rank, fields in enumerate(ranks):
        shard = open_dead(store, run_id, f"rank-{rank:05d}", monkeypatch, **writer)
        shard.update_rank(rank=rank, phase="timed")
        for number in range(iters):
            row = {"iter": number, "warmup": False, "num_batches": 1, "t_start_ns": number, "duration_s": 1.0}
            shard.add_iter(row)
        shard.update_rank(**fields)
        shard.close()


OK = {"status": "ok", "exit_code": 0, "weight_digests": ["abc"]}


def test_a_sound_store_is_called_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(tmp_path, num_processes=2, samples=2)
    add_run(tmp_path, status="failed")
    assert main([f"--results-dir={tmp_path}", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 runs in 8 files: all sound"
    assert json.loads(lines[1]) == {"runs": 2, "files": 8, "live": 0, "findings": []}
    for hours in ("-1", "nan"):
        assert main([f"--results-dir={tmp_path}", f"--older-than={hours}"]) == 2
        assert capsys.readouterr().err == f"results.check: --older-than {hours}: give 0 or more hours\n"


def test_a_store_that_may_only_be_read_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(tmp_path)
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    assert found(tmp_path) == []
    with pytest.raises(StoreError, match="cannot be locked"):
        found(tmp_path, recover=True)


@pytest.mark.parametrize("table", ["runs", "ranks", "iters", "telemetry"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_one_flipped_bit_is_found(tmp_path: Path, table: str, where: str) -> None:
    add_run(tmp_path, samples=5)
    path = tmp_path / table / DAY / "R00000.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    flip(path, start + column.total_compressed_size - 1 if where == "last" else start + 40)
    assert said(tmp_path)[f"{table}/{DAY}/R00000.parquet"].startswith("cannot be read (")


def test_every_kind_of_damage_is_named(tmp_path: Path) -> None:
    for _ in range(6):
        add_run(tmp_path, num_processes=2, samples=2)
    runs, ranks, iters, telemetry = (tmp_path / table / DAY for table in ("runs", "ranks", "iters", "telemetry"))
    whole = (iters / "R00000.parquet").read_bytes()
    (iters / "R00000.parquet").write_bytes(whole[: len(whole) // 2])
    (iters / "R00001.parquet").unlink()
    (runs / "R00002.parquet").unlink()
    (telemetry / "R00003.parquet").write_bytes((telemetry / "R00004.parquet").read_bytes())
    held = pq.ParquetFile(ranks / "R00004.parquet").read()
    pq.write_table(pa.concat_tables([held, held.slice(1)]), ranks / "R00004.parquet")
    pq.write_table(held.slice(1), ranks / "R00005.parquet")
    pq.write_table(pa.table({"a": [1]}), runs / "foreign.parquet")
    (runs / "notes.txt").write_text("mine")
    (runs / "compacted-1.parquet").write_bytes((runs / "R00004.parquet").read_bytes())
    (tmp_path / "runs" / "old").mkdir()
    assert {path: text.partition(" (")[0] for path, text in said(tmp_path).items()} == {
        f"iters/{DAY}/R00000.parquet": "cannot be read",
        f"runs/{DAY}/R00001.parquet": "R00001 has no file in table 'iters': its rows are lost",
        f"ranks/{DAY}/R00002.parquet": "holds rows of R00002, which is not in table 'runs'",
        f"iters/{DAY}/R00002.parquet": "holds rows of R00002, which is not in table 'runs'",
        f"telemetry/{DAY}/R00002.parquet": "holds rows of R00002, which is not in table 'runs'",
        f"telemetry/{DAY}/R00003.parquet": "holds rows of R00004, which it does not say",
        f"ranks/{DAY}/R00004.parquet": "holds a row twice: run_id R00004, rank 1",
        f"ranks/{DAY}/R00005.parquet": "holds rows of R00004, which it does not say",
        f"runs/{DAY}/R00005.parquet": "R00005 had 2 processes, and table 'ranks' has []",
        f"runs/{DAY}/foreign.parquet": "is not of table 'runs': lacks run_id, schema_version, status",
        f"runs/{DAY}/notes.txt": "is not a file of this store",
        f"runs/{DAY}/compacted-1.parquet": "is called compacted and does not say of which runs",
        "runs/old": "is not the folder of a day",
    }


def test_rows_of_a_later_version_are_named(tmp_path: Path) -> None:
    add_run(tmp_path, schema_version=SCHEMA_VERSION + 1)
    path = tmp_path / "runs" / DAY / "R00000.parquet"
    held = pq.ParquetFile(path).read()
    pq.write_table(held.append_column("aura", pa.array(["violet"])), path)
    assert [finding.text for finding in found(tmp_path)] == [
        "has a column that this TrainScale lacks: aura; update it",
        f"holds rows of schema {SCHEMA_VERSION + 1}; this TrainScale knows {SCHEMA_VERSION} and earlier: update it",
    ]


def test_a_link_among_the_files_is_named(tmp_path: Path) -> None:
    add_run(tmp_path / "data")
    add_run(tmp_path / "other", run_id="X")
    (tmp_path / "data" / "runs" / DAY / "X.parquet").symlink_to(tmp_path / "other" / "runs" / DAY / "X.parquet")
    (tmp_path / "data" / "iters" / "date=2026-05-02").symlink_to(tmp_path / "other" / "iters" / DAY)
    told = said(tmp_path / "data")
    assert told["iters/date=2026-05-02"] == "is not the folder of a day"
    assert f"runs/{DAY}/X.parquet" in told


@pytest.mark.commands
def test_a_run_that_was_cut_off_is_told_and_with_recover_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    write_run(store, "R", monkeypatch, OK, {})
    assert main([f"--results-dir={tmp_path}"]) == 3
    captured = capsys.readouterr()
    assert (
        captured.err
        == "results.check: R: was cut off before its rows were written: results.check --recover writes them\n"
    )
    assert captured.out == "0 runs in 0 files: 1 wrong\n"
    assert len(store.read_shards("R")) == 3
    assert main([f"--results-dir={tmp_path}", "--recover"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "R: was cut off and is recorded as lost: 6 iterations",
        "1 runs in 4 files: all sound",
    ]
    (run,) = pd.read_parquet(tmp_path / "runs").to_dict("records")
    assert (run["status"], run["exit_code"], run["failed_rank"], run["failed_phase"]) == ("lost", 4, 1, "timed")
    assert run["error"] == "its launcher died and could not record how the run ended; recovered by results.check"
    ranks = pd.read_parquet(tmp_path / "ranks")
    assert ranks["status"].tolist() == ["ok", "lost"]
    assert len(pd.read_parquet(tmp_path / "iters")) == 6
    assert not (tmp_path / ".shards").exists()
    assert store.finished_tasks("e") == set()


@pytest.mark.commands
def test_what_all_ranks_said_themselves_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    write_run(store, "R", monkeypatch, OK, OK)
    assert said(tmp_path, recover=True) == {"R": "was cut off and is recorded as ok: 6 iterations"}
    assert store.finished_tasks("e") == {"k-1"}
    no_file = {"status": "failed", "exit_code": 3, "error": "no file"}
    write_run(store, "S", monkeypatch, no_file, {}, iters=0)
    assert said(tmp_path, recover=True) == {"S": "could not start (no file) and is dropped"}
    write_run(store, "T", monkeypatch, no_file, {})
    assert said(tmp_path, recover=True) == {"T": "was cut off and is recorded as failed: 6 iterations"}
    assert said(tmp_path) == {}


@pytest.mark.commands
def test_a_run_of_which_only_another_hosts_rank_wrote_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    shard = open_dead(store, "20260501T120000-ab", "rank-00003", monkeypatch)
    shard.update_rank(rank=3, phase="rendezvous")
    shard.close()
    assert list(said(tmp_path, recover=True)) == ["20260501T120000-ab"]
    (run,) = pd.read_parquet(tmp_path / "runs").to_dict("records")
    assert (run["status"], run["num_processes"], run["started_at"]) == ("lost", 4, pd.Timestamp(START))
    assert dict(run["null_reasons"])["strategy"] == "the launcher left no word"
    assert said(tmp_path) == {}


@pytest.mark.commands
def test_a_run_that_is_alive_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    write_run(store, "R", monkeypatch, OK, OK)
    shard = store.open_shard("R", "run")  # by this process, which lives
    counts, findings = check(tmp_path, recover=True, older_than_s=0)
    assert (counts.live, findings) == (1, [])
    assert len(store.read_shards("R")) == 3
    shard.close()


@pytest.mark.commands
def test_a_run_of_another_machine_counts_as_cut_off_when_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    write_run(store, "R", monkeypatch, {}, {}, **ELSEWHERE)
    assert said(tmp_path, recover=True) == {}
    two_hours_ago = (datetime.now(timezone.utc) - timedelta(hours=2)).timestamp()
    for path in (tmp_path / ".shards" / "R").iterdir():
        os.utime(path, (two_hours_ago, two_hours_ago))
    assert said(tmp_path, older_than_s=3 * 3600) == {}
    assert list(said(tmp_path, recover=True)) == ["R"]
    assert said(tmp_path) == {}


@pytest.mark.commands
def test_a_process_is_known_by_more_than_its_number() -> None:
    me = myself()
    assert (me["hostname"], me["pid"], lives(me)) == (socket.gethostname(), os.getpid(), True)
    assert lives({**me, "start_ticks": me["start_ticks"] - 1}) is False
    assert lives({**me, "machine": "another"}) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    theirs = {**me, "pid": child.pid, "start_ticks": int(stat[19])}
    assert lives(theirs) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert lives(theirs) is False  # dead, if not yet buried
    child.communicate()
    assert lives(theirs) is False


@pytest.mark.commands
def test_a_crash_between_the_rows_and_the_end_of_a_commit_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    write_run(store, "R", monkeypatch, OK, OK)
    found(tmp_path, recover=True)
    write_run(store, "R", monkeypatch, OK, OK)
    next((tmp_path / ".sweeps").rglob("k-1")).unlink()
    assert said(tmp_path) == {"R": "is recorded and its shards are still there: --recover drops them"}
    assert said(tmp_path, recover=True) == {"R": "was recorded; its shards are dropped"}
    assert store.finished_tasks("e") == {"k-1"}
    assert not (tmp_path / ".shards").exists()


@pytest.mark.commands
def test_a_sweep_that_cannot_be_told_of_its_run_stops_no_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for run_id in ("R", "S"):
        write_run(store, run_id, monkeypatch, OK, OK)
    found(tmp_path, recover=True)
    for run_id in ("R", "S"):
        write_run(store, run_id, monkeypatch, OK, OK)
    path = tmp_path / "runs" / DAY / "R.parquet"
    (row,) = pq.ParquetFile(path).read().to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"sweep_task": "a/b"}], schema=arrow_schema("runs")), path)
    told = said(tmp_path, recover=True)
    assert told["R"].startswith("is recorded, but its sweep cannot be told so: its shards stay (OSError: ")
    assert told["S"] == "was recorded; its shards are dropped"
    assert len(store.read_shards("R")) == 3


@pytest.mark.commands
def test_a_crash_between_two_tables_is_finished_in_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    write_run(store, "R", monkeypatch, OK, OK)
    add_run(tmp_path, run_id="R")
    shards = tmp_path / ".shards"
    write_run(store, "R", monkeypatch, OK, {})
    (tmp_path / "runs" / DAY / "R.parquet").unlink()
    (tmp_path / "runs" / DAY / ".R.parquet.ab12.tmp").write_bytes(b"PAR1")
    told = said(tmp_path)
    assert set(told) == {"R", f"runs/{DAY}/.R.parquet.ab12.tmp"}
    assert all(finding.mended for finding in found(tmp_path, recover=True))
    assert (said(tmp_path), shards.exists()) == ({}, False)
    assert len(pd.read_parquet(tmp_path / "iters")) == 6


def test_temporaries_are_removed_only_when_nobody_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    add_run(tmp_path)
    live = store.open_shard("L", "run")
    day = tmp_path / "runs" / DAY
    for name in ("L", "R00000", "verified", "compacted-1"):
        (day / f".{name}.parquet.ab12.tmp").write_bytes(b"PAR1")
    (tmp_path / ".probe-ab12").touch()
    removed = {finding.path.rpartition("/")[2] for finding in found(tmp_path, recover=True)}
    assert removed == {".R00000.parquet.ab12.tmp", ".compacted-1.parquet.ab12.tmp"}
    removed = {finding.path.rpartition("/")[2] for finding in found(tmp_path, recover=True, older_than_s=0)}
    assert removed == {".verified.parquet.ab12.tmp", ".probe-ab12"}
    assert [path.name for path in day.glob(".*")] == [".L.parquet.ab12.tmp"]
    live.close()


def test_a_file_that_gets_its_name_while_we_look_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(tmp_path)
    listed = folders.listed

    def listed_before_it(folder: Path) -> list[str]:
        return [*listed(folder), ".begun-meanwhile.parquet.ab12.tmp"] if folder.name == DAY else listed(folder)

    monkeypatch.setattr(folders, "listed", listed_before_it)
    assert found(tmp_path, recover=True) == []


@pytest.mark.commands
def test_shards_that_make_no_rows_stay_and_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    shard = open_dead(store, "not a run", "rank-00000", monkeypatch)
    shard.update_rank(rank=0)
    shard.close()
    write_run(store, "R", monkeypatch, {"aura": "violet"}, {})
    open_dead(store, "empty", "run", monkeypatch).close()
    (tmp_path / ".shards" / "file").write_text("?")
    told = {name.rpartition("/")[2]: text.partition(" (")[0] for name, text in said(tmp_path, recover=True).items()}
    assert told == {
        "not a run": "cannot be made into rows and stays",
        "R": "cannot be made into rows and stays",
        "empty": "was cut off before it said anything and is dropped",
        "file": "is not the folder of a run",
    }
    assert len(store.read_shards("R")) == 3


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_pickle_is_read_from_the_store(tmp_path: Path) -> None:
    """A column may claim to be of a type whose description is a pickle."""
    add_run(tmp_path)
    path = tmp_path / "runs" / DAY / "R00000.parquet"
    evil = pickle.dumps(Payload(tmp_path / "executed"))
    held = pq.ParquetFile(path).read()
    claim = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": evil}
    pq.write_table(held.append_column(pa.field("x", pa.int64(), metadata=claim), pa.array([1])), path)
    assert said(tmp_path) == {f"runs/{DAY}/R00000.parquet": "has a column that this TrainScale lacks: x; update it"}
    assert len(pd.read_parquet(tmp_path / "runs")) == 1
    assert not (tmp_path / "executed").exists()
