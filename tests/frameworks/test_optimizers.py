"""The optimizers of the table under the strategies that one process can hold."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from bench.config import TrainingConfig
from bench.workloads.optimizers import OPTIMIZERS
from tests.frameworks.trainers import job, trainer

STEPS = 8

TOLERANCES = {"sgd": 1e-5, "momentum": 1e-5, "nesterov": 1e-5, "adam": 1e-4, "adamw": 1e-4, "rmsprop": 1e-4}
"""Of the weights' change. Where a step is linear in the gradient, rounding stays rounding (1e-6 was seen). The others
divide by the gradient's size: a weight whose gradient is all rounding moves as far as any other, in any direction, so a
part p of such weights makes sqrt(p). The nearest two optimizers, adam and adamw, differ by 6e-4."""


def small() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float32")
    layers = [keras.layers.Flatten(), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


@lru_cache
def trained(
    name: str, strategy: str = "single", steps: int = STEPS, learning_rate: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """losses [steps], all weights, and by how much each has changed."""
    rate = learning_rate or OPTIMIZERS[name].learning_rate
    one = trainer(strategy, replace(job(strategy, optimizer=name, learning_rate=rate), build_model=small))
    before = np.concatenate([weight.ravel() for weight in one.weights(0)])
    (performed,) = one.run(steps)()
    assert one.updates() == steps
    after = np.concatenate([weight.ravel() for weight in one.weights(0)])
    return np.asarray(performed.loss), before, after - before


def apart(changes: np.ndarray, wanted: np.ndarray) -> float:
    """|difference| / |wanted|, of the change of all weights together."""
    return float(np.linalg.norm(changes - wanted) / np.linalg.norm(wanted))


def test_the_flag_knows_the_table() -> None:
    assert list(get_args(get_type_hints(TrainingConfig)["optimizer"])) == list(OPTIMIZERS)


def test_the_first_step_is_what_each_optimizer_is_defined_to_do() -> None:
    """As Keras defines it; m and v are 0 before."""
    _, weights, sgd = trained("sgd", steps=1)
    gradient = -sgd / 0.01
    size = np.abs(gradient)
    adam = -0.001 * np.sqrt(1 - 0.999) / (1 - 0.9) * 0.1 * gradient / (np.sqrt(0.001) * size + 1e-7)
    expected = {
        "momentum": -0.01 * gradient,
        "nesterov": -0.01 * (1 + 0.9) * gradient,
        "adam": adam,
        "adamw": adam,
        "rmsprop": -0.001 * gradient / np.sqrt(0.1 * size**2 + 1e-7),
    }
    for name, wanted in expected.items():
        assert apart(trained(name, steps=1)[2], wanted) < 1e-3, name
    # A step's decay is less than that: it shows in weights of pixels that are never anything but black.
    still = gradient == 0
    assert still.sum() > 100
    assert apart(trained("adamw", steps=1)[2][still], -0.001 * 0.004 * weights[still]) < 0.1
    assert not trained("adam", steps=1)[2][still].any()
    assert apart(trained("sgd", steps=1, learning_rate=0.03)[2], 3 * sgd) < 1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("strategy", ["mirrored", "central"])
def test_two_devices_train_what_one_does(strategy: str, name: str) -> None:
    losses, _, changes = trained(name, strategy)
    wanted, _, theirs = trained(name)
    assert np.allclose(losses, wanted, rtol=1e-5)
    assert apart(changes, theirs) < TOLERANCES[name]


def test_each_optimizer_is_another_one() -> None:
    nearest = {"adam", "adamw"}
    for name in OPTIMIZERS:
        for other in OPTIMIZERS.keys() - {name}:
            least = 3e-4 if {name, other} == nearest else 0.1
            assert apart(trained(name)[2], trained(other)[2]) > least, (name, other)
