"""The evaluation itself and the file that is saved, in this process, under every strategy that it can hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strategies.base import HeldOut
from tests.frameworks.trainers import STRATEGIES, evaluation_nodes_of, job, nodes_of, trainer

import keras  # isort: skip  after TensorFlow's devices are set
import tensorflow as tf  # isort: skip

TEST_IMAGES = 359
"""Which no number of devices here shares evenly."""

COLLECTIVES = ("Collective", "Nccl", "Horovod")


def expected(model: Any, held_out: HeldOut) -> tuple[int, float]:
    """(images recognised, sum of cross-entropies) by Keras alone, from the images in order."""
    from strategies.base import Shard

    batches = [*held_out.batches(Shard(first=0, count=1, total=1))]
    images, labels, weights = (np.concatenate(part) for part in zip(*batches, strict=True))
    logits = np.asarray(model(images[weights > 0], training=False))
    losses = keras.losses.sparse_categorical_crossentropy(labels[weights > 0], logits, from_logits=True)
    return int((logits.argmax(axis=1) == labels[weights > 0]).sum()), float(np.sum(losses, dtype=np.float64))


@pytest.mark.parametrize(
    ("strategy", "model"),
    [*((name, "mnist_cnn") for name in STRATEGIES if name != "independent"), ("mirrored", "cifar_cnn")],
)  # the last has dropout
def test_every_test_image_counts_once_and_the_saved_model_is_the_one_that_was_evaluated(
    strategy: str, model: str, tmp_path: Path
) -> None:
    work = job(strategy, model, split="rest")
    one = trainer(strategy, work)
    one.run(2)()
    before, traces = one.weights(0), one.traces()
    found = one.evaluate()
    assert found == one.evaluate()
    assert found.num_samples == TEST_IMAGES
    assert one._evaluator.traces() == 1
    # Nothing that is trained has changed, and the step is the one that was traced.
    assert all((old == new).all() for old, new in zip(before, one.weights(0), strict=True))
    assert (one.updates(), one.traces()) == (2, traces)
    assert nodes_of(one)
    assert not [node.op for node in evaluation_nodes_of(one) if node.op.startswith(COLLECTIVES)]

    assert work.held_out is not None
    path = tmp_path / "m.weights.h5"
    one.save(path)
    loaded = work.build_model()
    loaded.load_weights(path)
    one.save(tmp_path / "m.keras")
    for copy in (loaded, keras.models.load_model(tmp_path / "m.keras")):
        correct, loss_sum = expected(copy, work.held_out)
        assert found.num_correct == correct
        assert found.loss_sum == pytest.approx(loss_sum, rel=1e-5)
        assert all((np.asarray(a) == b).all() for a, b in zip(copy.trainable_variables, before, strict=True))


def test_an_evaluation_changes_no_running_means_and_they_are_saved(tmp_path: Path) -> None:
    work = job("mirrored", split="rest")

    def with_normalisation() -> Any:
        keras.utils.set_random_seed(1)
        layers = keras.layers
        return keras.Sequential(
            [keras.Input((28, 28, 1)), layers.Flatten(), layers.BatchNormalization(), layers.Dense(10)]
        )

    work = replace(work, build_model=with_normalisation, build_copy=with_normalisation)
    one = trainer("mirrored", work)
    one.run(3)()

    def means() -> list[np.ndarray]:
        return [one._copies(variable)[0].numpy() for variable in one.model.non_trainable_variables]

    before, found = means(), one.evaluate()
    assert found.num_samples == TEST_IMAGES
    assert len(before) == 2
    assert all((old == new).all() for old, new in zip(before, means(), strict=True))
    one.save(tmp_path / "m.weights.h5")
    copy = with_normalisation()
    copy.load_weights(tmp_path / "m.weights.h5")
    # Of two replicas that each have running means of their own, the first one's are saved.
    assert all((old == np.asarray(new)).all() for old, new in zip(before, copy.non_trainable_variables, strict=True))


def test_what_fills_a_batch_may_be_anything() -> None:
    from strategies.evaluation import _counted

    def model(images: Any, training: bool) -> Any:
        assert not training
        return images

    logits = tf.constant([[9.0, 0.0], [0.0, 9.0], [float("nan"), float("inf")]])
    correct, samples, loss_sum = _counted(model, logits, tf.constant([0, 0, 1]), tf.constant([1.0, 1.0, 0.0]))
    assert (int(correct), int(samples), float(loss_sum)) == (1, 2, pytest.approx(9.0, rel=1e-3))
