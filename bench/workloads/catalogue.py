"""The networks of keras.applications, with random weights and ending in logits."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
from keras import layers

from bench.workloads.models import KERAS, ModelSpec


def application(spec: ModelSpec) -> Any:
    """`keras:NAME`. Parameters: docs/models.md."""
    name = spec.name.removeprefix(KERAS)
    make = partial(
        getattr(keras.applications, name), weights=None, classifier_activation=None, classes=spec.num_classes
    )
    if not name.startswith("EfficientNet"):
        return make(input_shape=spec.input_shape)
    # It divides pixels by 255 itself, as no other does, and ours are in [0, 1].
    image = keras.Input(spec.input_shape)
    return keras.Model(image, make(input_tensor=layers.Rescaling(255.0)(image)).output, name=name)


def mobilenetv2_mnist(spec: ModelSpec) -> Any:
    """MobileNetV2 without its top, under the mean over the image and one dense layer. 96x96x3, 10 classes: 2,270,794
    parameters."""
    base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=spec.input_shape)
    x = layers.GlobalAveragePooling2D()(base.output)
    return keras.Model(base.input, layers.Dense(spec.num_classes)(x), name="mobilenetv2_mnist")
