"""How much arithmetic a model is, from the graph that TensorFlow makes of it for one image."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_PRODUCTS = ("MatMul", "BatchMatMulV2")
_MULTIPLIES = re.compile("Conv|MatMul|Einsum")
"""What the names of operations hold that are arithmetic worth counting."""


class Uncounted(Exception):
    """The graph holds an operation whose arithmetic is not known here."""


@dataclass(frozen=True)
class Flops:
    """Of one image, 2 a multiply-add of the convolutions and matrix products; all else is not counted."""

    forward: int
    """The forward pass. VGG-16 at 224x224: 30,940,528,640."""
    train: int
    """Forward and backward pass: what is trained once more for its gradient, and once more for the gradient of its
    input where that depends on what is trained. A model trained whole: three times `forward`, less the gradient of the
    first layer's input."""


def count_flops(model: Any) -> Flops:
    """The arithmetic of a Keras model as it is trained now. Computes nothing, and reads or makes no variable.

    The backward pass is not traced, which would double the time: the gradients of a convolution or product are as many
    multiply-adds as itself, each. Raises Uncounted.
    """
    trained, fixed = _specs(model.trainable_variables), _specs(model.non_trainable_variables)

    def predict(trained: list[tf.Tensor], fixed: list[tf.Tensor], images: list[tf.Tensor]) -> Any:
        # In a scope of our own, or Keras makes values for weights that have none when it leaves the one inside. Without
        # what training adds: dropout and the statistics of a batch multiply no matrices.
        with keras.StatelessScope(initialize_variables=False):
            return model.stateless_call(trained, fixed, images[0], training=False)[0]

    # tf.function would trace twice, and look for the order of what has side effects.
    graph = tf.compat.v1.wrap_function(predict, [trained, fixed, _specs(model.inputs)]).graph
    operations = graph.get_operations()
    forward = backward = 0
    depends = {weight.op for weight in graph.inputs[: len(trained)]}
    for operation in operations:
        changing = [tensor.op in depends for tensor in operation.inputs]
        if any(changing):
            depends.add(operation)
        flops = _flops(operation)
        forward += flops
        backward += flops * sum(changing[:2])
    return Flops(forward, forward + backward)


def _specs(tensors: Sequence[Any]) -> list[tf.TensorSpec]:
    """Of weights, or of a batch of one image."""
    return [tf.TensorSpec([1 if size is None else size for size in each.shape], each.dtype) for each in tensors]


def _flops(operation: tf.Operation) -> int:
    if operation.type in _CONVOLUTIONS:
        kernel = operation.inputs[1].shape
        batch, height, width, _ = operation.outputs[0].shape
        return 2 * int(batch * height * width * math.prod(kernel))
    if operation.type in _PRODUCTS:
        transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
        return 2 * int(math.prod(operation.outputs[0].shape) * operation.inputs[0].shape[-2 if transposed else -1])
    if _MULTIPLIES.search(operation.type) or any(attr.HasField("func") for attr in operation.node_def.attr.values()):
        raise Uncounted(f"the arithmetic of TensorFlow's {operation.type} is not known")
    return 0
