"""The networks of keras.applications, with random weights and ending in logits."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from bench.workloads.models import KERAS, ModelSpec


def application(spec: ModelSpec) -> Any:
    """`keras:NAME`. Parameters: docs/models.md."""
    name = spec.name.removeprefix(KERAS)
    # EfficientNet divides by 255 itself; all others leave it to the caller, and our images are in [0, 1] already.
    scaled = {"input_tensor": layers.Rescaling(255.0)(keras.Input(spec.input_shape))} if "Efficient" in name else {}
    return getattr(keras.applications, name)(
        weights=None, classifier_activation=None, input_shape=spec.input_shape, classes=spec.num_classes, **scaled
    )


def mobilenetv2_mnist(spec: ModelSpec) -> Any:
    """MobileNetV2 without its top, under the mean over the image and one dense layer. 96x96x3, 10 classes: 2,270,794
    parameters."""
    base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=spec.input_shape)
    x = layers.GlobalAveragePooling2D()(base.output)
    return keras.Model(base.input, layers.Dense(spec.num_classes)(x), name="mobilenetv2_mnist")
