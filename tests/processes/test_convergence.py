"""Real trainings by epochs: every strategy evaluates all test images, and learns what one device alone learns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from bench.workloads.weights import load_weights
from tests.benchmark import SEVERAL_S, SMALL, Benchmark, last_json, run_all
from tests.frameworks.test_evaluation import expected
from tests.frameworks.trainers import job  # before anything is computed in this process

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

TEST_IMAGES = 359
FLAGS = (
    *("--dataset=digits", "--num-iters=None", "--batch-size=None", "--global-batch-size=120"),
    *("--num-batches-per-iter=5", "--epochs=2", "--telemetry-period=0"),
    *("--lr=0.02", "--lr-scaling=linear", "--lr-warmup-epochs=1"),
)
ENDS = [12, 24]
"""ceil(1438 / 120) and ceil(2 x 1438 / 120)."""


ALONE = ["--strategy=single"]
TOGETHER = {
    "mirrored": ["--strategy=mirrored", "--devices-per-worker=2"],
    "mwms": ["--strategy=mwms", "--num-workers=2", "--save-model=model.keras"],
    "horovod": ["--strategy=horovod", "--num-workers=2", "--target-accuracy=0.45", "--epochs=9"],
}
SERVED = ["--strategy=ps", "--num-workers=2", "--target-accuracy=1.0", "--save-model=model.weights.h5"]
RUNS = {"single": ALONE, **TOGETHER, "ps": SERVED}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, str]]:
    """Of each run its folder, in which it saves, and what it printed; TensorFlow is loaded once for all."""
    folders = {name: tmp_path_factory.mktemp(name) for name in RUNS}
    lines = []
    for name, flags in RUNS.items():
        words = [word.replace("--save-model=", f"--save-model={folders[name]}/") for word in flags]
        lines.append([*SMALL, *FLAGS, "--json", f"--results-dir={folders[name] / 'data'}", *words])
    return dict(zip(RUNS, zip(folders.values(), run_all(lines), strict=True), strict=True))


Trained = Callable[[str], tuple[Benchmark, pd.DataFrame]]


@pytest.fixture(scope="module")
def trained(printed: Mapping[str, tuple[Path, str]]) -> Trained:
    """A run and its evaluations, which are what they must be in every run."""

    def look(name: str) -> tuple[Benchmark, pd.DataFrame]:
        folder, stdout = printed[name]
        one = Benchmark(folder / "data")
        run, evals = one.only_run(), one.table("evals").sort_values("epoch")
        assert (run["status"], run["num_samples"]) == ("ok", 1438)
        assert set(one.table("ranks")["retraces"].dropna()) == {0}
        assert set(evals["num_samples"]) == {TEST_IMAGES}
        assert list(evals["steps"]) == ENDS[: len(evals)]
        assert list(evals["images"]) == [end * 120 for end in ENDS[: len(evals)]]
        assert list(evals["accuracy"]) == list(evals["num_correct"] / TEST_IMAGES)
        told = [json.loads(line[len(":::MLLOG ") :]) for line in stdout.splitlines() if line.startswith(":::MLLOG")]
        assert [line["value"] for line in told if line["key"] == "eval_accuracy"] == list(evals["accuracy"])
        assert last_json(stdout)["final_accuracy"] == evals["accuracy"].iloc[-1]
        return one, evals

    return look


@pytest.fixture(scope="module")
def alone(trained: Trained) -> pd.DataFrame:
    """The evaluations of one device."""
    one, evals = trained("single")
    run = one.only_run()
    assert (run["epochs"], run["learning_rate"], run["lr_warmup_epochs"]) == (2, 0.02 * 120 / 64, 1)
    reasons = dict(run["null_reasons"])
    assert reasons["time_to_accuracy_s"] == reasons["target_accuracy"] == "no target accuracy was asked for"
    assert evals["loss"].is_monotonic_decreasing
    return evals


@pytest.mark.parametrize("name", TOGETHER)
def test_devices_that_step_together_learn_what_one_learns(trained: Trained, alone: pd.DataFrame, name: str) -> None:
    one, evals = trained(name)
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
    if name == "horovod":  # all ranks stopped after the second
        assert alone["accuracy"].iloc[0] < 0.45 <= alone["accuracy"].iloc[1]
        assert run["time_to_accuracy_s"] == evals["train_s"].iloc[-1]
        assert "time_to_accuracy_s" not in dict(run["null_reasons"])


def saved(folder: Path) -> list[str]:
    """What lies beside the store of a run."""
    return sorted(path.name for path in folder.iterdir() if path.name != "data")


def test_one_of_several_workers_saves_what_all_have_trained(
    printed: Mapping[str, tuple[Path, str]], trained: Trained
) -> None:
    folder = printed["mwms"][0]
    assert saved(folder) == ["model.keras"]
    assert correct(folder / "model.keras") == pytest.approx(trained("mwms")[1]["num_correct"].iloc[-1], abs=1)


def test_a_coordinator_evaluates_and_saves_what_its_workers_have_trained(
    printed: Mapping[str, tuple[Path, str]], trained: Trained
) -> None:
    one, evals = trained("ps")
    assert evals["loss"].is_monotonic_decreasing
    # Both workers' updates are of their own 60 images.
    run = one.only_run()
    assert run["learning_rate"] == 0.02 * 60 / 64
    assert dict(run["null_reasons"])["time_to_accuracy_s"] == "no evaluation reached 1"
    folder = printed["ps"][0]
    assert saved(folder) == ["model.weights.h5"]
    assert correct(folder / "model.weights.h5") == evals["num_correct"].iloc[-1]


def correct(path: Path) -> int:
    """How many test images a saved model recognises here."""
    work = job(split="rest")
    loaded = work.build_model()
    load_weights(loaded, path, name="mnist_cnn", head=1, base_only=False)
    assert work.held_out is not None
    return expected(loaded, work.held_out)[0]
