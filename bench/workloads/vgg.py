"""VGG (Simonyan and Zisserman, 2014) as keras.applications has it, with random weights and ending in logits."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def vgg16() -> Any:
    """224x224x3, 1000 classes: 138,357,544 parameters."""
    return keras.applications.VGG16(weights=None, classifier_activation=None)


def vgg19() -> Any:
    """224x224x3, 1000 classes: 143,667,240 parameters."""
    return keras.applications.VGG19(weights=None, classifier_activation=None)


def vgg16_cifar() -> Any:
    """VGG16's convolutions on 32x32x3 with a small head, 10 classes: 14,982,474 parameters."""
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    x = layers.Flatten()(base.output)
    x = layers.Dropout(0.5)(x)
    x = layers.Dense(512, activation="tanh")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(base.input, layers.Dense(10)(x), name="vgg16_cifar")
