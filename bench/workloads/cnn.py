"""Small CNNs, layer by layer. They end in logits: the softmax is part of the loss, where it is stable."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def mnist_cnn() -> Any:
    """28x28x1, two 5x5 convolutions, 10 classes: 62,346 parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10),
        ],
        name="mnist_cnn",
    )


def cifar_cnn() -> Any:
    """32x32x3, two pairs of 3x3 convolutions with tanh, 10 classes: 81,578 parameters."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 3, activation="tanh"),
            layers.Conv2D(32, 3, activation="tanh"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="tanh"),
            layers.Conv2D(64, 3, activation="tanh"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10),
        ],
        name="cifar_cnn",
    )


def digits_cnn() -> Any:
    """28x28x1, two 3x3 convolutions, 5 classes: 600,165 parameters, of which the dense layers have 590,597."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(5),
        ],
        name="digits_cnn",
    )


def transfer_cnn() -> Any:
    """28x28x1, two 3x3 convolutions, 5 classes: 26,821 parameters, of which the dense layer has 8,005."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(5),
        ],
        name="transfer_cnn",
    )
