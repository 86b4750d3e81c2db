"""Small CNNs, layer by layer. They end in logits: the softmax is part of the loss, where it is stable."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from bench.workloads.models import ModelSpec


def mnist_cnn(spec: ModelSpec) -> Any:
    """Two 5x5 convolutions. 28x28x1, 10 classes: 62,346 parameters."""
    return keras.Sequential(
        [
            keras.Input(spec.input_shape),
            layers.Conv2D(32, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(spec.num_classes),
        ],
        name="mnist_cnn",
    )


def digits_cnn(spec: ModelSpec) -> Any:
    """Two 3x3 convolutions and a hidden layer, to be trained on some of the ten digits. 28x28x1, 5 classes: 600,165
    parameters."""
    return keras.Sequential(
        [
            keras.Input(spec.input_shape),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(spec.num_classes),
        ],
        name="digits_cnn",
    )


def transfer_cnn(spec: ModelSpec) -> Any:
    """Two 3x3 convolutions under one dense layer, for few images. 28x28x1, 5 classes: 26,821 parameters."""
    return keras.Sequential(
        [
            keras.Input(spec.input_shape),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(spec.num_classes),
        ],
        name="transfer_cnn",
    )


def fashion_cnn(spec: ModelSpec) -> Any:
    """Five convolutions and three dense layers, He initialisation (Geron's for Fashion MNIST). 28x28x1, 10 classes:
    1,413,834 parameters."""
    active = {"activation": "relu", "kernel_initializer": "he_normal"}
    return keras.Sequential(
        [
            keras.Input(spec.input_shape),
            layers.Conv2D(64, 7, padding="same", **active),
            layers.MaxPooling2D(2),
            layers.Conv2D(128, 3, padding="same", **active),
            layers.Conv2D(128, 3, padding="same", **active),
            layers.MaxPooling2D(2),
            layers.Conv2D(256, 3, padding="same", **active),
            layers.Conv2D(256, 3, padding="same", **active),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, **active),
            layers.Dropout(0.5),
            layers.Dense(64, **active),
            layers.Dropout(0.5),
            layers.Dense(spec.num_classes),
        ],
        name="fashion_cnn",
    )


def lenet5(spec: ModelSpec) -> Any:
    """LeNet-5 (LeCun et al., 1998) with tanh and a plain dense output. 32x32x1, 10 classes: 61,706 parameters."""
    return keras.Sequential(
        [
            keras.Input(spec.input_shape),
            layers.Conv2D(6, 5, activation="tanh", name="C1"),
            layers.AveragePooling2D(2, name="S2"),
            layers.Conv2D(16, 5, activation="tanh", name="C3"),
            layers.AveragePooling2D(2, name="S4"),
            layers.Conv2D(120, 5, activation="tanh", name="C5"),
            layers.Flatten(),
            layers.Dense(84, activation="tanh", name="F6"),
            layers.Dense(spec.num_classes, name="Out"),
        ],
        name="lenet5",
    )


def cifar_cnn(spec: ModelSpec) -> Any:
    """Two pairs of 3x3 convolutions with tanh. 32x32x3, 10 classes: 81,578 parameters."""
    return keras.Sequential(
        [
            keras.Input(spec.input_shape),
            layers.Conv2D(32, 3, activation="tanh"),
            layers.Conv2D(32, 3, activation="tanh"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="tanh"),
            layers.Conv2D(64, 3, activation="tanh"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(spec.num_classes),
        ],
        name="cifar_cnn",
    )
