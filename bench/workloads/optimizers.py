"""The table of optimizers: Keras's own, each under the name by which --optimizer knows it. Loads Keras when one is
built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_MOMENTUM = 0.9


@dataclass(frozen=True)
class OptimizerSpec:
    """A row of the table."""

    learning_rate: float
    """Where --lr gives none: Keras's default."""
    build: Callable[[Any, Any], Any]
    """From the module keras.optimizers and the learning rate. All else is as Keras has it."""


OPTIMIZERS: Mapping[str, OptimizerSpec] = {
    "sgd": OptimizerSpec(0.01, lambda keras_optimizers, rate: keras_optimizers.SGD(rate)),
    "momentum": OptimizerSpec(0.01, lambda keras_optimizers, rate: keras_optimizers.SGD(rate, _MOMENTUM)),
    "nesterov": OptimizerSpec(0.01, lambda keras_optimizers, rate: keras_optimizers.SGD(rate, _MOMENTUM, True)),
    "adam": OptimizerSpec(0.001, lambda keras_optimizers, rate: keras_optimizers.Adam(rate)),
    "adamw": OptimizerSpec(0.001, lambda keras_optimizers, rate: keras_optimizers.AdamW(rate)),
    "rmsprop": OptimizerSpec(0.001, lambda keras_optimizers, rate: keras_optimizers.RMSprop(rate)),
}


def build_optimizer(name: str, learning_rate: Any) -> Any:
    """The Keras optimizer, without weights yet; the rate is a number or a schedule of Keras."""
    import keras

    return OPTIMIZERS[name].build(keras.optimizers, learning_rate)


def rising(first: float, last: float, updates: int) -> Any:
    """A schedule of Keras: from one rate to another in a straight line over so many updates, and no further."""
    import keras

    # Keras calls it a decay; of power 1, to a larger rate, it rises.
    return keras.optimizers.schedules.PolynomialDecay(first, decay_steps=updates, end_learning_rate=last, power=1.0)
