"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) on one device: no split into two groups."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from bench.workloads.models import ModelSpec


class LocalResponseNormalization(layers.Layer):  # type: ignore[misc]
    """Divides each activation by what its five neighbouring channels have, with the paper's constants."""

    def __init__(self, **settings: Any) -> None:
        # TensorFlow has the operation in float32 alone for GPUs, and for CPUs neither in bfloat16 nor in float64.
        super().__init__(**{"dtype": "float32", **settings})

    def call(self, activations: tf.Tensor) -> tf.Tensor:
        """[b, h, w, c] -> the same shape, float32."""
        return tf.nn.local_response_normalization(activations, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)


def alexnet(spec: ModelSpec) -> Any:
    """Five convolutions and three dense layers. 227x227x3, 1000 classes: 62,378,344 parameters."""
    return keras.Sequential(
        [
            keras.Input(spec.input_shape),
            layers.Conv2D(96, 11, strides=4, activation="relu", name="C1"),
            LocalResponseNormalization(),
            layers.MaxPooling2D(3, strides=2, name="S2"),
            layers.Conv2D(256, 5, padding="same", activation="relu", name="C3"),
            LocalResponseNormalization(),
            layers.MaxPooling2D(3, strides=2, name="S4"),
            layers.Conv2D(384, 3, padding="same", activation="relu", name="C5"),
            layers.Conv2D(384, 3, padding="same", activation="relu", name="C6"),
            layers.Conv2D(256, 3, padding="same", activation="relu", name="C7"),
            layers.MaxPooling2D(3, strides=2, name="S8"),
            layers.Flatten(),
            layers.Dense(4096, activation="relu", name="F9"),
            layers.Dropout(0.5),
            layers.Dense(4096, activation="relu", name="F10"),
            layers.Dropout(0.5),
            layers.Dense(spec.num_classes, name="Out"),
        ],
        name="alexnet",
    )
