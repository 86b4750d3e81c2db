"""From tables on disk to a row a run: figures by hand, selections, old and new schemas, damaged stores."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.errors import AnalysisError, NewerSchema
from analysis.load import Results
from analysis.options import Selection
from results.schema import SCHEMA_VERSION, TABLES, arrow_schema
from tests.synthetic_store import add_run


def read(root: Path, **selection: object) -> Results:
    return Results(Selection(results_dir=(str(root),), **selection))  # type: ignore[arg-type]


def test_the_figures_of_a_run_by_hand(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1, 0.3], compute_shares=[0.5], data_wait_share=0.1)
    (run,) = read(tmp_path).runs.to_dict("records")
    assert run["images_per_s"] == pytest.approx(20 * 64 / 4.0)  # 20 steps in 1 s + 3 s, warm-up left out
    assert run["step_time_p50_s"] == pytest.approx(0.2)
    assert run["step_time_p90_s"] == pytest.approx(0.28)
    assert run["step_time_p99_s"] == pytest.approx(0.298)
    assert run["jitter_s"] == pytest.approx(1.4826 * 0.1)
    assert run["data_wait_share"] == pytest.approx(0.1)
    assert run["compute_share"] == pytest.approx(0.5)
    assert run["peak_rss_bytes"] == 2**30
    assert run["startup_time_s"] == 3.0


def test_mfu_is_what_the_model_takes_of_what_the_device_can(tmp_path: Path) -> None:
    known = {"num_devices": 2, "num_processes": 2, "batch_per_device": 10, "flops_per_image": 1_000_000}
    known["train_flops_per_image"] = 3_000_000
    add_run(tmp_path, [0.1, 0.1], **known, phase="train", peak_flops_per_s=1e9, predicted_mem_bytes=7)
    add_run(tmp_path, [0.1, 0.1], **known, phase="forward", peak_flops_per_s=1e9)
    add_run(tmp_path, [0.1, 0.1], **known, phase="train")
    runs = Results(Selection(results_dir=(str(tmp_path),))).runs
    # 100 images/s and device, 3 MFLOP each where they are trained.
    assert runs["mfu"][:2].tolist() == pytest.approx([0.3, 0.1])
    assert pd.isna(runs["mfu"][2])
    assert runs["predicted_mem_bytes"][0] == 7


def test_every_rank_counts_in_the_window_and_images_are_counted_once(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1, 0.1], num_processes=2, num_devices=2, strategy="mwms")
    (run,) = read(tmp_path).runs.to_dict("records")
    assert run["images_per_s"] == pytest.approx(20 * 128 / 2.0)


def test_the_slowest_rank_is_the_one_that_computes_longest_where_all_wait_for_all(tmp_path: Path) -> None:
    """Shares 0.3, 0.3 and 0.7 of the step, 0.1 of it data wait for each: the others wait 0.4 of it."""
    add_run(tmp_path, num_processes=3, num_devices=3, strategy="mwms", compute_shares=[0.3, 0.3, 0.7])
    (run,) = read(tmp_path).runs.to_dict("records")
    assert run["slowest_rank"] == 2
    assert run["waited_share"] == pytest.approx(0.4)


def test_without_compute_times_nobody_is_called_slowest(tmp_path: Path) -> None:
    add_run(tmp_path, num_processes=2, num_devices=2, strategy="mwms")
    runs = read(tmp_path).runs
    assert runs[["slowest_rank", "waited_share", "compute_share"]].isna().all(axis=None)


def test_failed_runs_are_kept_and_have_no_figures(tmp_path: Path) -> None:
    add_run(tmp_path)
    add_run(tmp_path, status="failed", error="boom")
    runs = read(tmp_path).runs
    assert list(runs["status"]) == ["ok", "failed"]
    assert runs["images_per_s"].isna().tolist() == [False, True]


def test_runs_are_selected_by_names_days_and_expressions(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1], experiment="nightly-1")
    add_run(tmp_path, [0.2], experiment="nightly-2", strategy="mwms")
    add_run(tmp_path, [0.4], experiment="other", started_at=datetime(2026, 6, 1, tzinfo=timezone.utc), model="vgg16")

    def chosen(**selection: object) -> list[str]:
        return list(read(tmp_path, **selection).runs["run_id"])

    assert chosen() == ["R00000", "R00001", "R00002"]
    assert chosen(experiment=("nightly-*",)) == ["R00000", "R00001"]
    assert chosen(experiment=("nightly-1", "other")) == ["R00000", "R00002"]
    assert chosen(strategy=("mwms",), experiment=("nightly-*",)) == ["R00001"]
    assert chosen(model=("vgg*",)) == ["R00002"]
    assert chosen(since="2026-05-02") == ["R00002"]
    assert chosen(until="2026-05-01") == ["R00000", "R00001"]
    assert chosen(where="images_per_s > 300 and model = 'mnist_cnn'") == ["R00000", "R00001"]


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"experiment": ("three",)}, r"no run of experiment 'three'.*There are: one, two"),
        ({"experiment": ("on",)}, r"no run of experiment 'on'. Did you mean 'one'\? There are: one, two"),
        ({"experiment": ("one",), "strategy": ("mwms",)}, r"no run of strategy 'mwms'. There are: single"),
        ({"where": "speed > 1"}, r"--where 'speed > 1': .*speed"),
        ({"where": "images_per_s <"}, r"--where 'images_per_s <'"),
        ({"where": "images_per_s < 0"}, r"--where 'images_per_s < 0' holds for none of 2 runs"),
        ({"since": "yesterday"}, r"--since is 'yesterday': give a day as YYYY-MM-DD"),
        (
            {"since": "2030-01-01"},
            r"no run of the days that were asked for: there are some of 2026-05-01 to 2026-05-01",
        ),
    ],
)
def test_what_selects_nothing_is_one_line_with_what_there_is(
    tmp_path: Path, selection: dict[str, object], said: str
) -> None:
    add_run(tmp_path, experiment="one")
    add_run(tmp_path, experiment="two", strategy="mwms")
    with pytest.raises(AnalysisError, match=said) as raised:
        read(tmp_path, **selection)
    assert "\n" not in str(raised.value)


def test_the_days_of_several_directories_are_told_from_the_first_to_the_last(tmp_path: Path) -> None:
    for name, month in (("a", 5), ("b", 4), ("c", 6), ("d", 5)):
        add_run(tmp_path / name, run_id=f"X{name}", started_at=datetime(2026, month, 1, tzinfo=timezone.utc))
    with pytest.raises(AnalysisError, match="there are some of 2026-04-01 to 2026-06-01"):
        Results(Selection(results_dir=(f"{tmp_path}/*",), since="2030-01-01"))


@pytest.mark.commands
def test_moments_are_in_utc_wherever_it_is_read(tmp_path: Path) -> None:
    """DuckDB takes the zone when it is loaded, so another process reads."""
    add_run(tmp_path / "data", started_at=datetime(2026, 5, 1, 23, tzinfo=timezone.utc))
    script = (
        "import sys; from pathlib import Path; from analysis import baselines; from analysis.load import Results; "
        "from analysis.options import Selection; runs = Results(Selection(results_dir=(sys.argv[1],), "
        "where=\"started_at >= '2026-05-01 23:00:00' and day(started_at) = 1\")).runs; "
        "print(runs['started_at'].iloc[0]); print(baselines.save('b', runs, Path(sys.argv[2])).read_text())"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "data"), str(tmp_path)]
    done = subprocess.run(words, env={**os.environ, "TZ": "Asia/Tokyo"}, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2026-05-01 23:00:00+00:00\n")
    assert '"started_at": "2026-05-01T23:00:00Z"' in done.stdout


def test_several_directories_and_patterns_are_one_store(tmp_path: Path) -> None:
    add_run(tmp_path / "a1", run_id="X1")
    add_run(tmp_path / "a2", run_id="X2")
    add_run(tmp_path / "b", run_id="X3")
    both = Results(Selection(results_dir=(f"{tmp_path}/a*", f"{tmp_path}/b", f"{tmp_path}/a1")))
    assert sorted(both.runs["run_id"]) == ["X1", "X2", "X3"]
    add_run(tmp_path / "c", run_id="X3")
    with pytest.raises(AnalysisError, match="run X3 is there twice"):
        Results(Selection(results_dir=(f"{tmp_path}/b", f"{tmp_path}/c")))


@pytest.mark.parametrize("make", [False, True])
def test_an_empty_store_is_told(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "runs").mkdir()
    with pytest.raises(AnalysisError, match=r"no runs in .*: measure some with"):
        read(tmp_path)


def test_a_run_that_is_being_written_is_not_seen(tmp_path: Path) -> None:
    add_run(tmp_path)
    day = next((tmp_path / "runs").glob("date=*"))
    (day / ".R00001.parquet.77.tmp").write_bytes(b"half a fil")
    (tmp_path / ".shards" / "R00001").mkdir(parents=True)
    results = read(tmp_path)
    assert (len(results.runs), results.skipped) == (1, [])


def test_what_cannot_be_read_is_skipped_and_named(tmp_path: Path) -> None:
    for step in (0.1, 0.2):
        add_run(tmp_path, [step])
    day = "date=2026-05-01"
    whole = (tmp_path / "iters" / day / "R00001.parquet").read_bytes()
    (tmp_path / "iters" / day / "R00001.parquet").write_bytes(whole[: len(whole) // 2])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "runs" / day / "foreign.parquet")
    pq.write_table(pa.table({"run_id": [1], "rank": ["x"]}), tmp_path / "ranks" / day / "other.parquet")
    (tmp_path / "telemetry" / day / "text.parquet").write_text("hello")
    results = read(tmp_path)
    assert {skipped.path.name: skipped.reason.partition(" (")[0] for skipped in results.skipped} == {
        "foreign.parquet": "is not of table 'runs': lacks run_id, schema_version, status",
        "other.parquet": "is not of table 'ranks': run_id is int64",
        "R00001.parquet": "cannot be read",
        "text.parquet": "cannot be read",
    }
    assert results.runs["images_per_s"].tolist() == pytest.approx([640, float("nan")], nan_ok=True)


def test_what_duckdb_alone_cannot_read_is_skipped_and_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a page whose header has a bit that Arrow does not look at."""
    for step in (0.1, 0.2):
        add_run(tmp_path, [step])
    path = tmp_path / "iters" / "date=2026-05-01" / "R00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr("results.files.fault", lambda *_: None)
    (skipped,) = read(tmp_path).skipped
    assert skipped.path == path
    assert skipped.reason.startswith("cannot be read (")


def rewrite(root: Path, table: str, change: object) -> None:
    for path in (root / table).rglob("*.parquet"):
        pq.write_table(change(pq.ParquetFile(path).read()), path)  # type: ignore[operator]


def test_rows_of_the_first_schema_read_beside_todays(tmp_path: Path) -> None:
    """Those columns did not exist; what the software then did is what they now say."""
    late = {"sweep_task", "job_id", "restart_count", "restart_of", "exchange", "preloaded", "compute_s"}
    late |= {"intra_op_threads", "inter_op_threads", "gpu_memory_mib", "phase", "optimizer", "learning_rate"}
    late |= {"image_size", "num_classes", "num_samples", "data_digest", "sharding", "cache"}
    add_run(tmp_path / "old", [0.1], run_id="X1", schema_version=1)
    for table in ("runs", "ranks", "iters"):
        known = [column.name for column in TABLES[table] if column.name not in late]
        rewrite(tmp_path / "old", table, lambda rows, known=known: rows.select(known))
    add_run(tmp_path / "new", [0.2], run_id="X2")
    both = Results(Selection(results_dir=(f"{tmp_path}/old", f"{tmp_path}/new"))).runs
    assert both["schema_version"].tolist() == [1, SCHEMA_VERSION]
    assert both["images_per_s"].tolist() == pytest.approx([640, 320])
    assert both["comparability_key"].nunique() == 1


def test_rows_of_a_later_schema_are_refused(tmp_path: Path) -> None:
    add_run(tmp_path, schema_version=SCHEMA_VERSION + 1)
    rewrite(tmp_path, "runs", lambda rows: rows.append_column("aura", pa.array(["violet"])))
    with pytest.raises(NewerSchema, match=f"rows of schema {SCHEMA_VERSION + 1}; this TrainScale knows") as raised:
        read(tmp_path)
    assert raised.value.exit_code == 3


def test_many_files_are_read_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.tables._FILES_AT_ONCE", 2)
    for step in (0.1, 0.2, 0.4, 0.8, 1.6):
        add_run(tmp_path, [step])
    assert read(tmp_path).runs["images_per_s"].tolist() == pytest.approx([640, 320, 160, 80, 40])


def test_merged_files_give_the_same_rows(tmp_path: Path) -> None:
    for step in (0.1, 0.2):
        add_run(tmp_path / "each", [step], experiment=f"e{step}")
    for table in ("runs", "ranks", "iters", "telemetry"):
        day = tmp_path / "merged" / table / "date=2026-05-01"
        day.mkdir(parents=True)
        parts = [pq.ParquetFile(path).read() for path in sorted((tmp_path / "each" / table).rglob("*.parquet"))]
        pq.write_table(pa.concat_tables(parts).cast(arrow_schema(table)), day / "all.parquet")
    assert read(tmp_path / "merged").runs.equals(read(tmp_path / "each").runs)
    assert read(tmp_path / "merged", experiment=("e0.2",)).runs["images_per_s"].tolist() == pytest.approx([320])


def test_whole_rows_are_read_of_the_runs_that_are_wanted(tmp_path: Path) -> None:
    for run_id in ("it's", "X2"):
        add_run(tmp_path, [0.1, 0.2], run_id=run_id)
    results = read(tmp_path)
    results.read_raw("iters", ["it's"])
    assert results.tables.rows("select run_id, iter, warmup from raw_iters order by iter") == [
        ("it's", 0, True),
        ("it's", 1, False),
        ("it's", 2, False),
    ]
