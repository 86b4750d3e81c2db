"""Which layers of a model are trained. What is frozen leaves the gradient, its exchange and the optimizer.

Keras does the rest: a frozen layer's weights are no trainable variables, and its batch normalisation normalises by the
statistics that it has instead of gathering new ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bench.errors import UsageError

BASE = "base"


def check(freeze: str | None) -> None:
    """Raises UsageError for what --freeze cannot mean under any model."""
    if freeze is not None and freeze != BASE and not re.fullmatch(r"[1-9][0-9]{0,8}", freeze):
        raise UsageError(
            f"--freeze is {freeze!r}: give base (all before the classifier head), or a number N of at least 1 for the "
            "first N layers with weights"
        )


def freeze_layers(model: Any, freeze: str, *, name: str, head: int) -> None:
    """Freezes the first layers of a Keras model: as many as --freeze says, or all but the `head` last.

    Raises UsageError where no layer is left to train; `name` is what it calls the model.
    """
    layers = [layer for _, layer in layers_with_weights(model)]
    count = len(layers) - head if freeze == BASE else int(freeze)
    if not 0 < count < len(layers):
        raise UsageError(
            f"--freeze {freeze}, but model {name!r} has {len(layers)} layer(s) with weights, so nothing would be left "
            f"to train: {_allowed(len(layers), head)}"
        )
    for layer in layers[:count]:
        layer.trainable = False
    if not model.trainable_variables:
        raise UsageError(f"--freeze {freeze} leaves nothing to train in model {name!r}: freeze fewer layers")


def _allowed(layers: int, head: int) -> str:
    if layers < 2:  # noqa: PLR2004
        return "leave --freeze out"
    return f"give a number from 1 to {layers - 1}, or base, which freezes the first {layers - head}"


def layers_with_weights(model: Any) -> Iterator[tuple[str, Any]]:
    """(where Keras's weight files keep it, layer) of each layer that has weights, in the model's order; models inside
    the model are looked into.

    Files don't name layers as the model does: each is called after its class, and numbered within its model.
    """
    for path, layer in named_layers(model):
        if hasattr(layer, "layers"):
            yield from ((f"{path}/{inside}", each) for inside, each in layers_with_weights(layer))
        elif layer.weights:
            yield path, layer


def named_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(where Keras's weight files keep it, layer) of all layers of the model itself."""
    numbers: dict[str, int] = {}
    for layer in model.layers:
        kind = _snake_case(type(layer).__name__)
        number = numbers[kind] = numbers.get(kind, -1) + 1
        yield f"layers/{kind}_{number}" if number else f"layers/{kind}", layer


def _snake_case(name: str) -> str:
    """`BatchNormalization` -> `batch_normalization`, `Conv2D` -> `conv2d`, as Keras names files' groups."""
    parted = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name)))
    return parted.lower()
