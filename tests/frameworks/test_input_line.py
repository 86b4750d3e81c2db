"""What a run says of its images and of what it freezes: only what is true and known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.workloads import workload
from strategies.base import NumericsConfig
from tests.frameworks import shards


def lines(**changes: Any) -> list[str]:
    """What rank 0 prints when the images are opened and the model is built, twice as some strategies do."""
    said: list[str] = []
    settings: dict[str, Any] = {"model": "digits_cnn", "dataset": "synthetic", "data_dir": None, **changes}
    job = workload(
        seed=1,
        batch_per_device=4,
        global_batch=4,
        steps=lambda _: 1,
        numerics=NumericsConfig(),
        tell=said.append,
        **settings,
    )
    job.build_model()
    job.build_model()
    return said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "mnist_cnn"}, "Input: 2,048 images, 10 classes, 28x28 grey -> 28x28 grey"),
        ({"dataset": "digits", "classes": "0-4"}, "Input: 901 images, 5 classes, 8x8 grey -> 28x28 grey"),
        (
            {"model": "cifar_cnn", "dataset": "digits", "classes": "0-2"},
            "Input: 537 images, 3 of 10 classes, 8x8 grey -> 32x32 colour",
        ),
    ],
)
def test_images_in_memory(changes: dict[str, Any], expected: str) -> None:
    assert lines(**changes) == [expected]


def test_images_in_files(tmp_path: Path) -> None:
    folder = shards.write(tmp_path, count=8, files=2, size=40)
    files = {"model": "mnist_cnn", "dataset": "tfrecord", "data_dir": folder}
    assert lines(**files) == ["Input: 8 images, 3 of 10 classes, from 40x40 colour -> 28x28 grey"]
    shards.rewrite(folder / "train-00000-of-00002", 0, shards.no_jpeg)
    assert lines(**files) == ["Input: 8 images, 3 of 10 classes -> 28x28 grey"]


@pytest.mark.parametrize(
    ("freeze", "what"), [("base", "base"), ("1", "first layer with weights"), ("2", "first 2 layers with weights")]
)
def test_what_is_frozen_at_random_weights_is_said_once(freeze: str, what: str) -> None:
    _, line = lines(dataset="digits", classes="0-4", freeze=freeze)
    assert line == f"Weights: {what} frozen at random weights (--weights FILE loads trained ones)"
