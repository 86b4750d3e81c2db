"""FLOPs: by hand, as published, and as TensorFlow's own gradients have them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench import frameworks
from bench.workloads import MODELS, build_model, model_spec, outline
from bench.workloads.arithmetic import Flops, Uncounted, count_flops
from bench.workloads.models import CATALOGUE

frameworks.load()

FIRST_OF_VGG = 2 * 224 * 224 * 3 * 3 * 3 * 64


def test_a_small_network_by_hand() -> None:
    first, second, dense = 2 * 24 * 24 * 5 * 5 * 32, 2 * 8 * 8 * 5 * 5 * 32 * 64, 2 * 1024 * 10
    forward = first + second + dense
    assert count_flops(outline(MODELS["mnist_cnn"])) == Flops(forward, 3 * forward - first)


@pytest.mark.parametrize("spec", [MODELS["vgg16"], CATALOGUE["keras:VGG16"]], ids=lambda spec: spec.name)
def test_vgg16_as_published(spec: Any) -> None:
    forward = 30_940_528_640  # 15.47 G multiply-adds
    assert count_flops(outline(spec)) == Flops(forward, 3 * forward - FIRST_OF_VGG)


def test_resnet50_as_published() -> None:
    assert 7.7e9 < count_flops(outline(CATALOGUE["keras:ResNet50"])).forward < 8.2e9


def test_what_is_frozen_has_no_gradient_and_passes_none_on_without_need() -> None:
    model = outline(MODELS["mnist_cnn"])
    first, second, dense = (layer for layer in model.layers if layer.weights)
    flops = [2 * 24 * 24 * 5 * 5 * 32, 2 * 8 * 8 * 5 * 5 * 32 * 64, 2 * 1024 * 10]
    first.trainable = False
    assert count_flops(model).train == sum(flops) + flops[1] + 2 * flops[2]
    second.trainable = False
    assert count_flops(model).train == sum(flops) + flops[2]
    first.trainable, dense.trainable = True, False
    assert count_flops(model).train == sum(flops) + flops[0] + flops[1] + flops[2]


def traced_by_tensorflow(model: Any) -> Flops:
    """The same from a graph with TensorFlow's own gradients in it, by what its operations are documented to do."""
    import tensorflow as tf

    weights = [variable.value for variable in model.trainable_variables]
    ends = []

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(images: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            result = model(images, training=True)
        ends.append(result.op)
        return result, tape.gradient(result, weights)

    traced = step.get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:])))

    def flops_of(ends: list[Any]) -> int:
        needed: set[Any] = set()
        while ends:
            operation = ends.pop()
            if operation not in needed:
                needed.add(operation)
                ends += [tensor.op for tensor in operation.inputs]
        return sum(flops(operation) for operation in needed)

    def flops(operation: Any) -> int:
        shapes = [tuple(tensor.shape) for tensor in (*operation.inputs, *operation.outputs)]
        match operation.type.removeprefix("Depthwise"):
            case "Conv2D" | "Conv2dNative":
                return 2 * math.prod(shapes[-1][:3]) * math.prod(shapes[1])
            case "Conv2DBackpropInput" | "Conv2dNativeBackpropInput":
                return 2 * math.prod(shapes[2][:3]) * math.prod(shapes[1])
            case "Conv2DBackpropFilter" | "Conv2dNativeBackpropFilter":
                return 2 * math.prod(shapes[2][:3]) * math.prod(shapes[-1])
            case "MatMul":
                return 2 * math.prod(shapes[-1]) * math.prod(shapes[0]) // shapes[-1][0]
        return 0

    return Flops(flops_of([ends[-1]]), flops_of([tensor.op for tensor in traced.outputs]))


@pytest.mark.parametrize(
    ("name", "size", "frozen"),
    [("lenet5", 32, 0), ("small_xception", 16, 0), ("small_xception", 16, 9), ("vgg16_cifar", 32, 20)],
)
def test_the_backward_pass_is_what_tensorflow_makes_of_it(name: str, size: int, frozen: int) -> None:
    model = build_model(model_spec(name, size), seed=1)
    for layer in model.layers[:frozen]:
        layer.trainable = False
    assert count_flops(model) == traced_by_tensorflow(model)


def test_counting_changes_nothing() -> None:
    model = build_model(model_spec("small_xception", 16), seed=1)
    before = [variable.numpy() for variable in model.variables]
    count_flops(model)
    assert all((old == new.numpy()).all() for old, new in zip(before, model.variables, strict=True))


def test_models_inside_models_are_counted() -> None:
    import keras

    inner = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3)])
    outer = keras.Sequential([inner, keras.layers.Flatten(), keras.layers.Dense(3)])
    convolution, dense = 2 * 16 * 9 * 2, 2 * 32 * 3
    assert count_flops(outer) == Flops(convolution + dense, 2 * convolution + 3 * dense)


def test_arithmetic_that_is_not_known_is_named() -> None:
    import keras

    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2DTranspose(2, 3)])
    with pytest.raises(Uncounted, match="Conv2DBackpropInput is not known"):
        count_flops(model)
