"""Freezing, weights from files and `bench.transfer` in real runs: the commands of docs/transfer.md, and refusals."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.benchmark import ROOT, SEVERAL_S, Benchmark, clean_environment, commands_of, perform
from tests.frameworks.test_weights import model

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

DOCUMENT = ROOT / "docs" / "transfer.md"


def test_the_documented_commands_freeze_save_load_and_compare(tmp_path: Path) -> None:
    first, save, load, compare = commands_of(DOCUMENT)
    for line in (first, save, load):
        perform(line, tmp_path)
    runs = pd.read_parquet(tmp_path / "results" / "data" / "runs").sort_values("run_id")
    assert set(runs["status"]) == {"ok"}
    frozen, known, transferred = runs.to_dict("records")
    assert (frozen["model"], frozen["freeze"], frozen["trainable_params"]) == ("digits_cnn", "base", 590_597)
    assert (frozen["num_params"], frozen["gradient_bytes"]) == (600_165, 4 * 590_597)
    assert (known["classes"], known["trainable_params"]) == ("0-4", 26_821)
    assert pd.isna(known["freeze"])
    assert "freeze" in dict(known["null_reasons"])
    assert "weights" in dict(known["null_reasons"])
    file = (tmp_path / "known.weights.h5").read_bytes()
    assert transferred["weights"] == hashlib.sha256(file).hexdigest()
    assert (transferred["freeze"], transferred["classes"], transferred["num_train_samples"]) == ("base", "5-9", 100)
    assert (transferred["trainable_params"], transferred["gradient_bytes"]) == (8_005, 32_020)
    assert runs["comparability_key"].nunique() == 3

    said = perform(compare, tmp_path)
    evals = pd.read_parquet(tmp_path / "results" / "data" / "evals")
    runs = pd.read_parquet(tmp_path / "results" / "data" / "runs").query("experiment == 'transfer'")
    assert runs["label"].value_counts().to_dict() == {"from scratch": 2, "pre-training": 2, "transferred": 2}
    last = evals.sort_values("epoch").groupby("run_id").last()
    for label, of_label in runs.groupby("label"):
        mean = last.loc[of_label["run_id"], "accuracy"].mean()
        assert re.search(rf"{label} .* {100 * mean:.1f}% ", said), said
    tested = last.loc[runs["run_id"], "num_samples"].groupby(runs["label"].to_numpy()).agg(["min", "max"])
    assert (tested["min"] == tested["max"]).all()
    assert tested["min"]["from scratch"] + tested["min"]["pre-training"] == 359  # every test image is of one group
    assert runs.query("label == 'transferred'")["weights"].nunique() == 2
    assert "Transferred - from scratch: " in said


def test_workers_freeze_alike_and_leave_a_head_of_other_classes_alone(benchmark: Benchmark, tmp_path: Path) -> None:
    import keras

    from bench.workloads import MODELS, build_model

    one = build_model(MODELS["mnist_cnn"], seed=5)
    other = keras.Sequential([keras.Input((28, 28, 1)), *one.layers[:-1], keras.layers.Dense(7)])
    other.save_weights(tmp_path / "seven.weights.h5")
    flags = ("--strategy=mwms", "--num-workers=2", "--dataset=digits", f"--weights={tmp_path / 'seven.weights.h5'}")
    done = benchmark.run(*flags, "--freeze=base")
    assert done.returncode == 0, done.stderr
    told = "Weights: the base of mnist_cnn is that of seven.weights.h5, its classifier head begins at random: dense"
    assert done.stdout.splitlines().count(told) == 1
    run = benchmark.only_run()
    assert (run["trainable_params"], run["gradient_bytes"], run["num_params"]) == (10_250, 41_000, 62_346)
    assert (run["actual_all_reduce"], run["freeze"]) == ("ring", "base")
    digests = {digest for row in benchmark.table("ranks")["weight_digests"] for digest in row}
    assert len(digests) == 1


def test_files_that_do_not_fit_or_are_damaged_end_a_run_with_one_line(benchmark: Benchmark, tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    model(3).save_weights(path)
    for code, message in ((2, "does not fit model 'mnist_cnn': kernel of layer conv2d is"), (3, "cannot be used: ")):
        done = benchmark.run(f"--weights={path}")
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert message in done.stderr
        assert benchmark.left_behind() == []
        path.write_bytes(path.read_bytes()[:-100])


def test_workers_transfer_what_files_of_images_teach_them(tmp_path: Path) -> None:
    """MNIST's file, with few images that a small network tells apart: each class has its own row of light."""
    random = np.random.default_rng(1)
    images = {}
    for part, count in (("train", 400), ("test", 100)):
        labels = np.arange(count) % 10
        pixels = random.integers(0, 60, (count, 28, 28), np.uint8)
        pixels[np.arange(count), 2 * labels + 4] += 180
        images |= {f"x_{part}": pixels, f"y_{part}": labels.astype(np.uint8)}
    np.savez(tmp_path / "mnist.npz", **images)
    said = perform(
        f"python -m bench.transfer --dataset mnist --data-dir {tmp_path} --strategy mwms --devices 2 --seeds 1 "
        "--pretrain-epochs 1 --epochs 1",
        tmp_path,
    )
    runs = pd.read_parquet(tmp_path / "results" / "data" / "runs").set_index("label")
    assert runs["status"].to_dict() == dict.fromkeys(("from scratch", "pre-training", "transferred"), "ok")
    assert set(runs["num_processes"]) == {2}
    assert set(runs["dataset"]) == {"mnist"}
    assert runs["num_samples"].to_dict() == {"from scratch": 100, "pre-training": 200, "transferred": 100}
    assert runs["trainable_params"].to_dict() == {"from scratch": 26_821, "pre-training": 26_821, "transferred": 8_005}
    evals = pd.read_parquet(tmp_path / "results" / "data" / "evals")
    assert set(evals["num_samples"]) == {50}
    assert "One seed cannot tell whether that is chance: --seeds 3 or more can." in said


def test_a_training_that_fails_ends_the_comparison_with_its_exit_code(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bench.transfer", "--samples=5000", f"--results-dir={tmp_path / 'data'}"]
    done = subprocess.run(
        words, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=SEVERAL_S, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("bench.transfer: seed 1, from scratch: ")
    assert "5000" in line
    assert Benchmark(tmp_path / "data").left_behind() == []
