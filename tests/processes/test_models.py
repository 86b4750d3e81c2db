"""Models that keep state of their own under every strategy, one with a layer of ours, and one of keras.applications, in
real processes."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.benchmark import SEVERAL_S, SMALL, Benchmark, run_all

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

NORMALISING = ["--model=small_xception", "--image-size=16", "--num-classes=12", "--batch-size=3"]
"""Batch normalisation, dropout and separable convolutions."""
OURS = ["--model=alexnet", "--image-size=67", "--num-classes=10", "--batch-size=2", "--strategy=mirrored"]
THEIRS = ["--model=keras:MobileNetV2", "--image-size=32", "--num-classes=10", "--lr=0.001", "--strategy=single"]
RUNS = [
    [*NORMALISING, "--strategy=mirrored", "--devices-per-worker=2"],
    [*NORMALISING, "--strategy=central", "--devices-per-worker=2"],
    [*NORMALISING, "--strategy=mwms", "--num-workers=2"],
    [*NORMALISING, "--strategy=horovod", "--num-workers=2"],
    [*NORMALISING, "--strategy=ps", "--num-workers=1"],
    [*OURS, "--devices-per-worker=2", "--dataset=digits"],
    [*THEIRS, "--dataset=digits"],
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The rows of `runs`, all made by one process that has loaded TensorFlow."""
    results = tmp_path_factory.mktemp("models")
    run_all([[*SMALL, f"--results-dir={results}", *words] for words in RUNS])
    return Benchmark(results).table("runs").set_index("strategy", drop=False)


def test_state_and_layers_of_ours_train_under_every_strategy(rows: pd.DataFrame) -> None:
    assert rows["status"].tolist() == ["ok"] * len(RUNS)
    assert set(rows["strategy"]) == {"single", "mirrored", "central", "mwms", "horovod", "ps"}


def test_size_and_classes_are_recorded_and_counted(rows: pd.DataFrame) -> None:
    mine = rows[rows["model"] == "small_xception"]
    assert set(mine["image_size"]) == {16}
    assert set(mine["num_classes"]) == {12}
    assert set(mine["num_params"]) == {2_740_290 + 2 * 1025}
    assert set(mine["trainable_params"]) == {2_732_002 + 2 * 1025}  # without the means and variances
    assert mine["flops_per_image"].nunique() == 1
    assert mine["train_flops_per_image"].nunique() == 1
    config = json.loads(mine["config"].iloc[0])
    assert (config["image_size"], config["num_classes"]) == (16, 12)
    (alexnet,) = rows[rows["model"] == "alexnet"].to_dict("records")
    assert (alexnet["image_size"], alexnet["num_classes"]) == (67, 10)


def test_a_model_of_the_catalogue_trains_at_a_size_of_the_users(rows: pd.DataFrame) -> None:
    (run,) = rows[rows["model"] == "keras:MobileNetV2"].to_dict("records")
    assert (run["image_size"], run["num_classes"]) == (32, 10)
    assert run["num_params"] == 3_538_984 - 990 * 1281
    assert run["trainable_params"] == run["num_params"] - 34_112  # without the means and variances
    assert run["gradient_bytes"] == 4 * run["trainable_params"]
