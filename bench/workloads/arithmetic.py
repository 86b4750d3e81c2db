"""How much arithmetic a model is, from its layers' shapes. Pure: any object with Keras's attributes will do."""

from __future__ import annotations

import math
from typing import Any

_FREE = ("InputLayer", "MaxPooling2D", "AveragePooling2D", "Flatten", "Dropout", "Activation")
"""Layers without multiplications worth counting."""


def forward_flops(model: Any) -> int | None:
    """FLOPs of one image's forward pass: 2 a multiply-add of the convolutions and dense layers.

    None when the model holds a layer whose arithmetic is not known here. VGG16 at 224x224: 30,940,528,640.
    """
    total = 0
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Conv2D":
            positions = math.prod(layer.output.shape[1:3])
            total += 2 * positions * math.prod(layer.kernel.shape)
        elif kind == "Dense":
            total += 2 * math.prod(layer.kernel.shape)
        elif kind not in _FREE:
            return None
    return total
