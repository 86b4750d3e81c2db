"""Real runs on TFRecords: what is recorded, and how a bad record ends them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmark import Benchmark
from tests.frameworks import shards

pytestmark = pytest.mark.processes

HOW = {"file": "each process reads its own files", "record": "every process reads all files"}
FLAGS = ("--model=cifar_cnn", "--dataset=tfrecord")


@pytest.mark.parametrize(
    ("files", "flags", "recorded"),
    [(4, ["--strategy=mwms", "--cache=disk"], ("file", "disk")), (3, ["--strategy=ps"], ("record", "none"))],
)
def test_a_run_records_its_input(
    benchmark: Benchmark, tmp_path: Path, files: int, flags: list[str], recorded: tuple[str, str]
) -> None:
    folder = shards.write(tmp_path / "set", files=files)
    done = benchmark.run(*FLAGS, f"--data-dir={folder}", "--num-workers=2", "--batch-size=4", *flags)
    assert done.returncode == 0, done.stderr
    assert f"Input: 24 images, sharded by {recorded[0]} (2 process(es): {HOW[recorded[0]]})" in done.stdout
    run = benchmark.only_run()
    assert (run["status"], run["dataset"], run["num_samples"]) == ("ok", "tfrecord", shards.COUNT)
    assert (run["sharding"], run["cache"]) == recorded
    assert len(run["data_digest"]) == 16
    assert not {"sharding", "data_digest", "num_samples", "cache"} & set(dict(run["null_reasons"]))
    assert benchmark.table("iters")["loss"].between(0.5, 4).all()


def test_a_bad_record_ends_the_run_and_what_was_measured_is_kept(benchmark: Benchmark, tmp_path: Path) -> None:
    bad = shards.write(tmp_path / "bad", count=400, files=1) / "train-00000-of-00001"
    shards.rewrite(bad, 399, shards.half_a_jpeg)
    # One image of 400: the seed does not draw it among the first.
    done = benchmark.run(*FLAGS, f"--data-dir={bad.parent}", "--num-iters=60")
    assert done.returncode == 4, done.stdout
    assert f"data file cannot be used: '{bad}', record 399: holds no image that can be decoded" in done.stderr
    assert "Traceback" not in done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["failed_rank"], run["failed_phase"]) == ("failed", 0, "timed")
    assert len(benchmark.table("iters")) > 3


def test_a_bad_record_to_validate_is_named_as_well(benchmark: Benchmark, tmp_path: Path) -> None:
    bad = shards.write(shards.write(tmp_path), count=10, files=1, part="validation") / "validation-00000-of-00001"
    shards.rewrite(bad, 9, shards.half_a_jpeg)
    done = benchmark.run(*FLAGS, f"--data-dir={tmp_path}", "--batch-size=4", "--num-iters=None", "--epochs=1")
    assert done.returncode == 4, done.stdout
    assert f"data file cannot be used: '{bad}', record 9: holds no image that can be decoded" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_start_leaves_nothing(benchmark: Benchmark, tmp_path: Path) -> None:
    """tests/test_plan.py has more of that."""
    folder = shards.write(tmp_path / "set")
    done = benchmark.run(*FLAGS, f"--data-dir={folder}", "--batch-size=25")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "has 24 images to train and a global batch is 25" in line
    assert benchmark.left_behind() == []
