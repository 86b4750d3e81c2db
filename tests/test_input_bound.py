"""From runs that wait for their input to the sentences that say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.configurations import configurations
from analysis.input_bound import sentences
from analysis.load import Results
from analysis.options import Selection
from tests.synthetic_store import add_run

RECORDS: dict[str, Any] = {"dataset": "tfrecord", "cache": "none", "sharding": "file", "data_digest": "d"}


def said(root: Path) -> list[str]:
    return sentences(configurations(Results(Selection(results_dir=(str(root),))).runs))


def test_what_hardly_waits_is_not_mentioned(tmp_path: Path) -> None:
    add_run(tmp_path, data_wait_share=0.049)
    assert said(tmp_path) == []


def test_the_worst_of_a_workload_against_the_same_on_synthetic_data(tmp_path: Path) -> None:
    two = {"strategy": "mwms", "num_processes": 2, "num_devices": 2}
    for step_s in (0.2, 0.21, 0.19):
        add_run(tmp_path, [step_s] * 2, data_wait_share=0.42, **RECORDS, **two)
        add_run(tmp_path, [step_s], data_wait_share=0.06, **RECORDS)
        add_run(tmp_path, [step_s / 2], **two)
        add_run(tmp_path, [step_s / 9], **two, precision="bf16")
    assert said(tmp_path) == [
        "mnist_cnn on tfrecord, 64 images a device, 1 core a device: mwms x2 is input-bound, 42% of its time is "
        "waiting for input, and so is 1 other configuration. The same on synthetic data is 2 times (1.785 to 2.24) "
        "as fast."
    ]


def test_a_difference_within_the_noise_is_called_that(tmp_path: Path) -> None:
    for rows, steps in ((RECORDS, (0.1, 0.12)), ({}, (0.099, 0.119))):
        for step_s in steps:
            add_run(tmp_path, [step_s], data_wait_share=0.1 if rows else 0.0, **rows)
    (sentence,) = said(tmp_path)
    assert "On synthetic data the same cannot be told from it: 1.009 times (0." in sentence


def test_without_runs_on_synthetic_data_the_remedy_is_named(tmp_path: Path) -> None:
    add_run(tmp_path, data_wait_share=0.3, **RECORDS)
    add_run(tmp_path, batch_per_device=32)
    (sentence,) = said(tmp_path)
    assert sentence.endswith(
        "30% of its time is waiting for input. How much that costs would show in runs of the same "
        "with --dataset synthetic."
    )


def test_a_run_by_epochs_stands_against_one_by_iterations(tmp_path: Path) -> None:
    learned = {"epochs": 3, "target_accuracy": 0.97, "lr_warmup_epochs": 1, "learning_rate": 0.02}
    add_run(tmp_path, [0.2], data_wait_share=0.3, **RECORDS, **learned)
    (sentence,) = said(tmp_path)
    assert sentence.endswith("--dataset synthetic and without --epochs, --target-accuracy, --lr-warmup-epochs.")
    add_run(tmp_path, [0.1], data_wait_share=0)
    (sentence,) = said(tmp_path)
    assert sentence.endswith("The same on synthetic data is 2 times (a single run: no interval) as fast.")


def test_a_single_run_has_no_interval_and_synthetic_data_has_no_other(tmp_path: Path) -> None:
    add_run(tmp_path, [0.2], data_wait_share=0.3, **RECORDS)
    add_run(tmp_path, [0.1], data_wait_share=0.2)
    synthetic, records = said(tmp_path)
    assert records.endswith("is 2 times (a single run: no interval) as fast.")
    assert synthetic.endswith("That data costs nothing to read: the cores that compute leave none for the input.")
