"""A small network in the manner of Xception (Chollet, 2017)."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from bench.workloads.models import ModelSpec

_WIDTHS = (256, 512, 728)
"""Channels of the blocks; each halves height and width."""


def small_xception(spec: ModelSpec) -> Any:
    """A convolution, three residual blocks of two separable convolutions, one more, and the mean over the image, as in
    Keras's example of image classification from scratch. 10 classes: 2,740,290 parameters at any size."""
    image = keras.Input(spec.input_shape)
    x = layers.Conv2D(128, 3, strides=2, padding="same")(image)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("relu")(x)
    shortcut = x
    for width in _WIDTHS:
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.SeparableConv2D(width, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = layers.add([x, layers.Conv2D(width, 1, strides=2, padding="same")(shortcut)])
        shortcut = x
    x = layers.SeparableConv2D(1024, 3, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.25)(x)
    return keras.Model(image, layers.Dense(spec.num_classes)(x), name="small_xception")
