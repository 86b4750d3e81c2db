"""Training by epochs: where they end, what an evaluation counts, when a training stops, what a report makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import table
from analysis.drawing import convergence
from analysis.drawing.plots import lines
from bench.bounds import FIRST_CALL_S, SLACK
from bench.config import parse
from bench.convergence import RateWarmup, epoch_ends, packed, reached, scaled_rate, total, unpacked
from bench.errors import UsageError
from bench.launch_plan import plan_launch
from bench.plan import Plan
from bench.summary import images_per_s, summarise
from bench.telemetry import Gpus
from results.check import check
from results.compact import compact
from results.record import Ending, conclude
from results.schema import EVALS
from results.store import ShardContent, Store
from strategies.base import Evaluation
from tests.report_content import content_of
from tests.synthetic_store import add_run
from tests.test_bounds import Rank
from tests.test_check import DAY, OK, found, said, write_run
from tests.test_compact import LATER
from tests.test_record import ENDED, RUN, rank


@pytest.mark.parametrize(
    ("samples", "batch", "ends"),
    [
        (100, 25, [4, 8, 12]),
        (100, 30, [4, 7, 10]),
        (100, 100, [1, 2, 3]),
        (1438, 64, [23, 45, 68]),
        (7, 1, [7, 14, 21]),
    ],
)
def test_an_epoch_ends_when_every_sample_was_trained_once_more(samples: int, batch: int, ends: list[int]) -> None:
    assert [*epoch_ends(samples, batch, 3)] == ends
    for epoch, end in enumerate(ends, start=1):
        assert end * batch >= epoch * samples > (end - 1) * batch


def test_a_step_of_more_than_an_epoch_is_refused() -> None:
    with pytest.raises(UsageError, match="passes over 100 images, but one step takes 101: use a smaller batch"):
        epoch_ends(100, 101, 1)


def test_what_processes_count_adds_up_to_the_same_everywhere() -> None:
    parts = [Evaluation(num_correct=n, num_samples=2 * n, loss_sum=n / 3) for n in (1, 2, 4)]
    found = total([unpacked(packed(part)) for part in parts])
    assert found == total(parts) == Evaluation(num_correct=7, num_samples=14, loss_sum=1 / 3 + 2 / 3 + 4 / 3)
    assert (found.accuracy, found.loss) == (0.5, pytest.approx(1 / 6))


def test_a_training_stops_at_its_target_and_only_there() -> None:
    half = Evaluation(num_correct=1, num_samples=2, loss_sum=0.0)
    assert [reached(half, target) for target in (None, 0.4, 0.5, 0.51)] == [False, True, True, False]


def planned(*flags: str) -> Plan:
    return plan_launch(parse(["--device=cpu", "--dataset=digits", *flags]), None, Gpus({}), {}).plan


@pytest.mark.parametrize(
    ("flags", "rate", "warmup"),
    [
        (["--batch-size=64"], 0.01, None),
        (["--batch-size=64", "--lr-scaling=linear", "--lr=0.1"], 0.1, None),
        (["--global-batch-size=256", "--lr-scaling=linear", "--lr=0.1"], 0.4, None),
        # Two workers that step together change the weights with one gradient, of all their images.
        (["--strategy=mwms", "--num-workers=2", "--batch-size=64", "--lr-scaling=linear"], 0.02, None),
        # Those that do not change them twice.
        (["--strategy=ps", "--num-workers=2", "--batch-size=64", "--lr-scaling=linear"], 0.01, None),
        (
            ["--global-batch-size=128", "--lr-scaling=linear", "--epochs=3", "--lr-warmup-epochs=2"],
            0.02,
            RateWarmup(first=0.01, epochs=2, images_of_update=128),
        ),
    ],
)
def test_the_rate_follows_the_batch_of_an_update(flags: list[str], rate: float, warmup: RateWarmup | None) -> None:
    plan = planned(*flags)
    assert plan.run_fields()["learning_rate"] == pytest.approx(rate)
    assert plan.rate_warmup == warmup
    assert plan.run_fields()["lr_warmup_epochs"] == (warmup.epochs if warmup else None)
    assert scaled_rate(0.5, "none", 999) == 0.5


@pytest.mark.commands
def test_the_rate_rises_in_a_straight_line_and_stays() -> None:
    from bench.workloads.optimizers import build_optimizer, rising

    assert RateWarmup(first=0.1, epochs=2, images_of_update=30).updates(100) == 7
    schedule = rising(0.1, 0.4, 6)
    assert [float(schedule(update)) for update in (0, 1, 3, 6, 7, 100)] == pytest.approx(
        [0.1, 0.15, 0.25, 0.4, 0.4, 0.4]
    )
    optimizer = build_optimizer("momentum", schedule)
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


REFUSED = [
    (["--epochs=0"], "--epochs is 0: give a whole number"),
    (["--epochs=2", "--num-iters=3"], "--epochs and --num-iters both say how long to train: give one of them"),
    (["--target-accuracy=2", "--epochs=2"], "--target-accuracy is 2: give a part of 1, such as 0.97"),
    (["--target-accuracy=nan", "--epochs=2"], "--target-accuracy is nan"),
    (["--target-accuracy=0.9"], "--target-accuracy needs --epochs"),
    (["--lr-warmup-epochs=1", "--epochs=2"], "--lr-warmup-epochs rises to the scaled rate: give --lr-scaling linear"),
    (
        ["--lr-warmup-epochs=3", "--epochs=2", "--lr-scaling=linear"],
        "--lr-warmup-epochs is 3: it needs at least as many",
    ),
    (["--lr-warmup-epochs=3", "--lr-scaling=linear"], "--lr-warmup-epochs is 3: it needs at least as many --epochs"),
    (["--save-model=x.h5"], "--save-model is 'x.h5': give a name that ends in .weights.h5 or .keras"),
    (["--save-model=x/.keras"], "--save-model is 'x/.keras': give a name that ends in"),
    (
        ["--save-model=x.keras", "--sweep-task=t"],
        "--save-model in a sweep is a file that each of its runs would replace",
    ),
    (["--save-model=/nowhere/x.keras"], "--save-model '/nowhere/x.keras': there is no folder '/nowhere'"),
    (["--save-model=/dev/null/x.keras"], "there is no folder '/dev/null'"),
    (["--epochs=2", "--dataset=synthetic"], "dataset 'synthetic' is noise, in which nothing can be recognised"),
    (["--epochs=2", "--strategy=independent"], "strategy 'independent' trains a model in each worker, so --epochs has"),
    (["--save-model=x.keras", "--strategy=independent"], "so --save-model has no one model: leave it out"),
    (["--epochs=2", "--phase=forward"], "--epochs has no effect with --phase forward"),
    (["--save-model=x.keras", "--phase=forward"], "--save-model has no effect with --phase forward"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_starts(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        planned(*flags)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_the_models_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.keras").mkdir()
    with pytest.raises(UsageError, match="cannot be written: choose another place"):
        planned(f"--save-model={tmp_path}/m.keras")


def test_the_schedule_follows_the_size_of_the_data_set() -> None:
    plan = planned("--epochs=2", "--batch-size=64")
    assert plan.run_fields()["num_iters"] is None
    assert plan.schedule(1438).epoch_ends == (23, 45)
    assert plan.schedule(1438).num_iters == 5
    assert planned("--batch-size=64").schedule(1438).num_iters == 10


def test_an_evaluation_has_a_bound_of_its_own(tmp_path: Path) -> None:
    one = Rank(tmp_path)
    one.bounds.enter("trace")
    one.stepped(30.0, 1, warmup=True)
    one.bounds.enter("warmup")
    one.stepped(40.0, 10, warmup=True)
    one.bounds.enter("timed")
    one.bounds.evaluate(2)
    assert one.now == ("evaluation", FIRST_CALL_S)  # the first traces
    one.bounds.evaluate(100)
    assert one.now == ("evaluation", SLACK * 4.0 * 100)
    one.bounds.enter("timed")
    assert one.now == ("timed", SLACK * 4.0 * 10)
    asked = Rank(tmp_path, "--step-timeout=5")
    asked.bounds.evaluate(1000)
    assert asked.now == ("evaluation", 50)


EVAL = {
    "epoch": 1,
    "iter": 1,
    "steps": 3,
    "images": 48,
    "t_ns": 5,
    "train_s": 2.0,
    "eval_s": 1.0,
    "num_correct": 3,
    "num_samples": 4,
    "accuracy": 0.75,
    "loss": 0.5,
}


def test_what_was_evaluated_is_in_the_tables_of_a_run_that_was_and_of_no_other() -> None:
    ran = [rank(0), rank(1)]
    assert "evals" not in conclude("R", [*ran, ShardContent("run", run=RUN)], Ending(), ENDED)
    ran[0].evals.append(EVAL)
    tables = conclude("R", [*ran, ShardContent("run", run=RUN)], Ending(), ENDED)
    assert tables["evals"] == [{"run_id": "R", **EVAL}]
    assert set(tables["evals"][0]) == {column.name for column in EVALS}


@pytest.mark.commands
def test_evaluations_survive_the_death_of_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    write_run(store, "20260501T120000-1", monkeypatch, {}, {})
    shard = store.open_shard("20260501T120000-1", "rank-00000")
    shard.add_eval(EVAL)
    shard.add_eval(EVAL | {"epoch": 2, "accuracy": 1.0})
    shard.close()
    monkeypatch.setattr("results.crash.lives", lambda _writer: False)
    (mended,) = found(tmp_path, recover=True, older_than_s=0)
    assert mended.mended
    (path,) = (tmp_path / "evals").rglob("*.parquet")
    assert [row["accuracy"] for row in rows_of(path)] == [0.75, 1.0]
    assert found(tmp_path) == []


def rows_of(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    return rows


@pytest.mark.commands
def test_shards_stay_until_what_they_hold_of_evaluations_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = add_run(tmp_path, accuracies=[0.5, 0.75])
    store = Store(tmp_path)
    write_run(store, run["run_id"], monkeypatch, OK, OK)
    shard = store.open_shard(run["run_id"], "rank-00000")
    shard.add_eval(EVAL)
    shard.close()
    monkeypatch.setattr("results.crash.lives", lambda _writer: False)
    path = tmp_path / "evals" / DAY / f"{run['run_id']}.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert "rows of 'evals' are damaged or missing" in said(tmp_path, recover=True)[run["run_id"]]
    assert store.is_open(run["run_id"])
    path.write_bytes(whole)
    assert said(tmp_path, recover=True) == {run["run_id"]: "was recorded; its shards are dropped"}


def test_lost_and_strange_evaluations_are_found(tmp_path: Path) -> None:
    lost, twice, of_none, plain = (add_run(tmp_path, accuracies=accuracies) for accuracies in ([1], [1, 1], [1], []))
    assert said(tmp_path) == {}
    evals = tmp_path / "evals" / DAY
    (evals / f"{lost['run_id']}.parquet").unlink()
    import pyarrow as pa
    import pyarrow.parquet as pq

    held = pq.ParquetFile(evals / f"{twice['run_id']}.parquet").read()
    pq.write_table(pa.concat_tables([held, held.slice(1)]), evals / f"{twice['run_id']}.parquet")
    (tmp_path / "runs" / DAY / f"{of_none['run_id']}.parquet").unlink()
    wrong = {path: text.partition(": its")[0] for path, text in said(tmp_path).items() if "not in table" not in text}
    assert wrong == {
        f"runs/{DAY}/{lost['run_id']}.parquet": f"{lost['run_id']} has no file in table 'evals'",
        f"evals/{DAY}/{twice['run_id']}.parquet": f"holds a row twice: run_id {twice['run_id']}, epoch 2",
    }
    assert said(tmp_path)[f"evals/{DAY}/{of_none['run_id']}.parquet"].endswith("which is not in table 'runs'")
    assert plain["run_id"] not in str(said(tmp_path))


def test_evaluations_are_merged_with_the_rest(tmp_path: Path) -> None:
    for accuracies in ([0.5], [0.5, 1.0], []):
        add_run(tmp_path, accuracies=accuracies)
    assert compact(tmp_path, LATER).into == 5
    (path,) = (tmp_path / "evals").rglob("*.parquet")
    assert [row["accuracy"] for row in rows_of(path)] == [0.5, 0.5, 1.0]
    assert check(tmp_path, recover=False, older_than_s=0)[1] == []


def test_evaluations_are_no_part_of_throughput(tmp_path: Path) -> None:
    add_run(tmp_path / "a", [0.1] * 4)
    add_run(tmp_path / "b", [0.1] * 4, accuracies=[0.5, 1.0])
    (plain,), (evaluated,) = (content_of(tmp_path / name).results.runs["images_per_s"] for name in "ab")
    assert evaluated == pytest.approx(plain) == pytest.approx(640)
    rows = [
        {"rank": 0, "iter": index, "num_batches": 10, "t_start_ns": start * 10**9, "duration_s": 1.0}
        for index, start in enumerate((0, 1, 7))
    ]
    pauses = [EVAL | {"iter": 1, "eval_s": 5.0}, EVAL | {"iter": 2, "eval_s": 9.0}]
    assert images_per_s(rows, {0: 1}, 8, pauses) == pytest.approx(80.0)


def test_a_run_tells_what_it_learned() -> None:
    rows = [
        {
            "rank": 0,
            "iter": index,
            "warmup": index == 0,
            "num_batches": 1,
            "t_start_ns": index * 10**9,
            "duration_s": 1.0,
            "data_wait_s": 0.0,
        }
        for index in range(3)
    ]
    run = {"status": "ok", "batch_per_device": 8, "num_devices": 1, "global_batch": 8}
    ranks = [{"rank": 0, "num_devices": 1}]
    tables = {"runs": [run], "ranks": ranks, "iters": rows, "telemetry": []}
    assert summarise(tables)["final_accuracy"] is None
    evals = [EVAL, EVAL | {"epoch": 2, "iter": 2, "accuracy": 0.5}]
    reached_it = tables | {"runs": [run | {"time_to_accuracy_s": 2.0, "target_accuracy": 0.7}], "evals": evals}
    told = summarise(reached_it)
    assert (told["final_accuracy"], told["best_accuracy"], told["time_to_accuracy_s"]) == (0.5, 0.75, 2.0)


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """Three runs that reached 0.9, one of them late, and three of two workers of which one never did."""
    asked = {"epochs": 4, "target_accuracy": 0.9}
    for accuracies, time_s in (([0.5, 0.9], 4.0), ([0.6, 0.95], 4.0), ([0.5, 0.6, 0.7, 0.9], 8.0)):
        steps = [0.1] * 2 * len(accuracies)
        add_run(tmp_path, steps, accuracies=accuracies, time_to_accuracy_s=time_s, **asked)
    workers = {"strategy": "mwms", "num_processes": 2, "num_devices": 2}
    for accuracies, reached_s in (([0.9], 1.0), ([0.9], 1.0), ([0.5, 0.6, 0.7, 0.8], None)):
        steps = [0.1] * len(accuracies)
        add_run(tmp_path, steps, accuracies=accuracies, time_to_accuracy_s=reached_s, **asked, **workers)
    return tmp_path


def test_the_table_shows_accuracy_and_the_time_to_it(learned: Path) -> None:
    content = content_of(learned)
    columns = table.headings(content.standings)
    assert columns == (*table.HEADINGS, "accuracy", "time to accuracy", "its 95% interval")
    shown = {
        one.configuration.setup["strategy"]: [text for text, _ in table.cells(one, "x", columns)[len(table.HEADINGS) :]]
        for one in content.standings
    }
    assert shown["single"][:2] == [f"{(0.9 * 0.95 * 0.9) ** (1 / 3):.2%}", f"{128 ** (1 / 3):.4g} s to 0.9"]
    assert shown["single"][2] == "1.865 s - 13.62 s"
    assert shown["mwms"][1:] == ["1 s to 0.9, 1 of 3 runs never", "1 s - 1 s"]
    assert any("runs that never did have none" in note for note in content.notes)
    assert len([*table.terminal_tables(content.standings, content.series)]) == 2


def test_a_target_that_no_run_reached_is_told_so(tmp_path: Path) -> None:
    add_run(tmp_path, accuracies=[0.5], target_accuracy=0.9)
    (one,) = content_of(tmp_path).standings
    columns = table.headings([one])
    assert [text for text, _ in table.cells(one, "x", columns)[-2:]] == ["50.00%", "0.9 not reached"]


def test_the_plot_shows_each_epoch_over_its_runs(learned: Path) -> None:
    content = content_of(learned)
    ((_, group),) = content.workloads
    plot = convergence.plot(content.results, lines(group, content.series))
    assert plot is not None
    single, mwms, target = plot.data
    assert single["x"] == [2, 4, 6, 8]
    assert single["y"] == [pytest.approx(1.6 / 3, rel=1e-4), pytest.approx(2.45 / 3, rel=1e-4), 0.7, 0.9]
    assert "epoch 2: 81.67% [60.00%, 95.00%] after 4 s (3 runs)" in single["hovertext"][1]
    assert mwms["x"] == [1, 2, 3, 4]
    assert (target["name"], target["y"], target["x"]) == ("target 0.9", [0.9, 0.9], [0, 8])
    json.dumps(plot.data, allow_nan=False)


def test_runs_of_iterations_have_neither_columns_nor_plot(tmp_path: Path) -> None:
    add_run(tmp_path)
    content = content_of(tmp_path)
    ((_, group),) = content.workloads
    assert convergence.plot(content.results, lines(group, content.series)) is None
    assert table.headings(content.standings) == table.HEADINGS
    assert np.isnan(content.results.runs["final_accuracy"].astype(float)).all()
