"""VGG (Simonyan and Zisserman, 2014) as keras.applications has it, with random weights and ending in logits."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from bench.workloads.models import ModelSpec


def vgg16(spec: ModelSpec) -> Any:
    """224x224x3, 1000 classes: 138,357,544 parameters."""
    return keras.applications.VGG16(
        weights=None, classifier_activation=None, input_shape=spec.input_shape, classes=spec.num_classes
    )


def vgg19(spec: ModelSpec) -> Any:
    """224x224x3, 1000 classes: 143,667,240 parameters."""
    return keras.applications.VGG19(
        weights=None, classifier_activation=None, input_shape=spec.input_shape, classes=spec.num_classes
    )


def vgg16_cifar(spec: ModelSpec) -> Any:
    """VGG16's convolutions with a small head. 32x32x3, 10 classes: 14,982,474 parameters."""
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=spec.input_shape)
    x = layers.Flatten()(base.output)
    x = layers.Dropout(0.5)(x)
    x = layers.Dense(512, activation="tanh")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(base.input, layers.Dense(spec.num_classes)(x), name="vgg16_cifar")
