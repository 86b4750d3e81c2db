"""Real trainings by epochs: every strategy evaluates all test images, and learns what one device alone learns."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.benchmark import Benchmark, last_json

pytestmark = pytest.mark.processes

TEST_IMAGES = 359
FLAGS = (
    *("--dataset=digits", "--num-iters=None", "--batch-size=None", "--global-batch-size=120"),
    *("--num-batches-per-iter=5", "--epochs=2", "--telemetry-period=0"),
    *("--lr=0.02", "--lr-scaling=linear", "--lr-warmup-epochs=1"),
)
ENDS = [12, 24]
"""ceil(1438 / 120) and ceil(2 x 1438 / 120)."""


def trained(folder: Path, *flags: str) -> tuple[Benchmark, pd.DataFrame]:
    """A run and its evaluations."""
    one = Benchmark(folder)
    done = one.run(*FLAGS, "--json", *flags)
    assert done.returncode == 0, done.stderr
    run, evals = one.only_run(), one.table("evals").sort_values("epoch")
    assert (run["status"], run["num_samples"]) == ("ok", 1438)
    assert set(one.table("ranks")["retraces"].dropna()) == {0}
    assert set(evals["num_samples"]) == {TEST_IMAGES}
    assert list(evals["steps"]) == ENDS[: len(evals)]
    assert list(evals["images"]) == [end * 120 for end in ENDS[: len(evals)]]
    assert list(evals["accuracy"]) == list(evals["num_correct"] / TEST_IMAGES)
    told = [json.loads(line[len(":::MLLOG ") :]) for line in done.stdout.splitlines() if line.startswith(":::MLLOG")]
    assert [line["value"] for line in told if line["key"] == "eval_accuracy"] == list(evals["accuracy"])
    figures = last_json(done.stdout)
    assert figures["final_accuracy"] == evals["accuracy"].iloc[-1]
    return one, evals


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The evaluations of one device."""
    one, evals = trained(tmp_path_factory.mktemp("single"), "--strategy=single")
    run = one.only_run()
    assert (run["epochs"], run["learning_rate"], run["lr_warmup_epochs"]) == (2, 0.02 * 120 / 64, 1)
    reasons = dict(run["null_reasons"])
    assert reasons["time_to_accuracy_s"] == reasons["target_accuracy"] == "no target accuracy was asked for"
    assert evals["loss"].is_monotonic_decreasing
    return evals


@pytest.mark.parametrize(
    "flags",
    [
        ["--strategy=mirrored", "--devices-per-worker=2"],
        ["--strategy=mwms", "--num-workers=2"],
        ["--strategy=horovod", "--num-workers=2", "--target-accuracy=0.45", "--epochs=9"],
    ],
    ids=["mirrored", "mwms", "horovod"],
)
def test_devices_that_step_together_learn_what_one_learns(
    benchmark: Benchmark, alone: pd.DataFrame, flags: list[str]
) -> None:
    one, evals = trained(benchmark.results, *flags)
    assert list(evals["loss"]) == pytest.approx(list(alone["loss"]), rel=1e-3)
    assert list(evals["num_correct"]) == pytest.approx(list(alone["num_correct"]), abs=2)
    mine = one.table("iters").query("rank == 0").sort_values("iter")
    for row in evals.itertuples():
        before = mine[mine["iter"] <= row.iter]
        assert before["num_batches"].sum() == row.steps
        assert row.train_s == pytest.approx(before["duration_s"].iloc[1:].sum(), rel=1e-6)
        assert row.t_ns >= before["t_start_ns"].iloc[-1] + before["duration_s"].iloc[-1] * 1e9 - 1000
    assert mine["num_batches"].sum() == ENDS[-1]
    run = one.only_run()
    if "--epochs=9" in flags:  # all ranks stopped after the second
        assert alone["accuracy"].iloc[0] < 0.45 <= alone["accuracy"].iloc[1]
        assert run["time_to_accuracy_s"] == evals["train_s"].iloc[-1]
        assert "time_to_accuracy_s" not in dict(run["null_reasons"])


def test_a_coordinator_evaluates_and_saves_what_its_workers_have_trained(benchmark: Benchmark, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    flags = ["--strategy=ps", "--num-workers=2", "--target-accuracy=1.0", f"--save-model={path}"]
    one, evals = trained(benchmark.results, *flags)
    assert evals["loss"].is_monotonic_decreasing
    # Both workers' updates are of their own 60 images.
    run = one.only_run()
    assert run["learning_rate"] == 0.02 * 60 / 64
    assert dict(run["null_reasons"])["time_to_accuracy_s"] == "no evaluation reached 1"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [path.name]

    from tests.test_evaluation import expected
    from tests.trainers import job

    work = job(split="rest")
    loaded = work.build_model()
    loaded.load_weights(path)
    assert work.held_out is not None
    assert expected(loaded, work.held_out)[0] == evals["num_correct"].iloc[-1]
