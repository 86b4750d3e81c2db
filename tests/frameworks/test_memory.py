"""The prediction of memory against sums made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench import frameworks
from bench.workloads import MODELS, build_model
from bench.workloads.arithmetic import count_flops
from bench.workloads.memory import Prediction, predict

frameworks.load()

MIB = 1 << 20


@pytest.fixture(autouse=True)
def float32() -> None:
    import keras

    keras.config.set_dtype_policy("float32")


def built(*layers: Any, shape: tuple[int, int, int] = (8, 8, 3)) -> Any:
    import keras

    return keras.Sequential([keras.Input(shape), *layers])


def predicted(model: Any, **options: Any) -> Prediction:
    found = predict(model, **{"batch": 1, **options})
    assert found is not None
    return found


def test_the_worked_example() -> None:
    """A layer of 200 filters of 5x5 on an RGB image of 150x100: the figures of docs/arithmetic.md."""
    from keras import layers

    model = built(layers.Conv2D(200, 5, padding="same", activation="relu"), shape=(150, 100, 3))
    assert model.count_params() == (5 * 5 * 3 + 1) * 200 == 15_200
    assert count_flops(model).forward == 2 * 225_000_000
    image, result = 150 * 100 * 3 * 4, 150 * 100 * 200 * 4
    assert result == 12_000_000
    assert predicted(model).activations == image + result
    assert predicted(model, batch=100).activations == 100 * (image + result)
    assert 100 * result == 1_200_000_000


def test_every_part_of_mnist_cnn_by_hand() -> None:
    found = predicted(build_model(MODELS["mnist_cnn"], 1), batch=64, held_bytes=1000)
    first, pooled, image = 64 * 24 * 24 * 32 * 4, 64 * 12 * 12 * 32 * 4, 64 * 28 * 28 * 4
    assert found.weights == 62_346 * 4
    assert (found.slots, found.gradients) == (0, 0)
    assert found.input == image + 1000
    # It is the turn of the first pooling: the images, what it was given, what it made of it and a byte of oneDNN's for
    # each, and the gradients of both.
    assert found.activations == image + first + pooled + pooled // 4
    assert found.working == first + pooled
    # 4.5 MiB open a region of 8.
    assert found.padding == 8 * MIB - first
    assert found.total == sum((found.weights, found.input, found.activations, found.working, found.padding))


def test_on_a_gpu_pooling_keeps_no_bytes_of_onednns() -> None:
    model = build_model(MODELS["mnist_cnn"], 1)
    on_cpu, on_gpu = predicted(model, batch=64), predicted(model, batch=64, kernels="cudnn")
    assert on_cpu.activations - on_gpu.activations == 64 * 12 * 12 * 32


def test_scratch_memory_of_eigens_convolutions_by_hand() -> None:
    """A 5x5 convolution, 16x16x32 -> 12x12x64: its kernel's gradient takes the patches of as many images at once as
    30 MiB hold, each with its results and the kernel; its input's gradient those of one image."""
    from keras import layers

    model = built(layers.Conv2D(32, 1), layers.Conv2D(64, 5), shape=(16, 16, 1))
    patches, results, kernel = 144 * (25 * 32) * 4, 144 * 64 * 4, 25 * 32 * 64 * 4
    images = -(-30 * MIB // (patches + results + kernel))
    assert images == 45
    gradients, new_weights = 8 * (144 * 64 + 256 * 32) * 4, kernel + 64 * 4
    found = predicted(model, batch=8, kernels="eigen")
    assert found.working == gradients + new_weights + patches * (images + 1)
    # With few matrix elements for each thread, many images at once for the input's gradient, too.
    assert predicted(model, batch=8, kernels="eigen", threads=8).working == found.working + patches * (images - 1)


def test_scratch_memory_of_eigens_max_pooling_is_twelve_bytes_for_each_result() -> None:
    from keras import layers

    model = built(layers.BatchNormalization(), layers.MaxPooling2D(2), shape=(400, 400, 2))
    eigen, cudnn = predicted(model, kernels="eigen"), predicted(model, kernels="cudnn")
    assert eigen.total - cudnn.total == 200 * 200 * 2 * 12


def test_a_large_weight_decides_where_most_is_needed() -> None:
    """VGG16 at one image: the gradient of its first dense layer, and that layer's new weights beside the old ones."""
    found = predicted(build_model(MODELS["vgg16"], 1))
    dense = (7 * 7 * 512 * 4096 + 4096) * 4
    assert found.weights == 138_357_544 * 4
    assert found.gradients == dense
    assert dense < found.working < dense + MIB
    assert found.padding == 0  # the weights were there before and are larger than any other tensor


def test_slots_are_kept_and_make_new_values() -> None:
    from keras import layers

    model = built(layers.Flatten(), layers.Dense(1000), layers.Dense(10))
    plain = predicted(model)
    weights = 4 * model.count_params()
    for slots in (1, 2):
        found = predicted(model, slot_bytes=slots * weights)
        assert found.slots == slots * weights
        largest = (192 + 1) * 1000 * 4
        assert found.gradients == plain.gradients == largest
        assert found.working == plain.working + slots * largest


def test_gradients_that_are_exchanged_are_all_there_at_once() -> None:
    from keras import layers

    model = built(layers.Flatten(), layers.Dense(1000), layers.Dense(10))
    found, trained = predicted(model, together=True), 4 * model.count_params()
    assert (found.gradients, found.working, found.activations) == (trained, trained, 0)


def test_inference_needs_what_a_layer_reads_and_makes() -> None:
    from keras import layers

    model = built(*(layers.Conv2D(filters, 3, padding="same", activation="relu") for filters in (4, 16, 8, 2)))
    found = predicted(model, train=False, slot_bytes=99)
    assert found.activations == 8 * 8 * (16 + 8) * 4
    assert (found.slots, found.gradients, found.working) == (0, 0, 0)
    # Training keeps all of it; when most is there, the last layer has had its turn.
    assert predicted(model).activations == 8 * 8 * (3 + 4 + 16 + 8) * 4


def test_a_frozen_base_has_no_gradients_and_keeps_nothing() -> None:
    from keras import layers

    base = [layers.Conv2D(16, 3, padding="same", activation="relu") for _ in range(4)]
    model = built(*base, layers.Flatten(), layers.Dense(10))
    whole = predicted(model)
    for layer in base:
        layer.trainable = False
    frozen = predicted(model)
    image = 8 * 8 * 16 * 4
    assert whole.activations == 8 * 8 * 3 * 4 + 4 * image
    assert (frozen.activations, frozen.gradients) == (image, (8 * 8 * 16 + 1) * 10 * 4)
    assert frozen.weights == whole.weights
    assert frozen.total < whole.total
    # What no gradient needs is still there while the next layer reads it.
    many = predicted(model, batch=100)
    assert (many.activations, many.gradients) == (100 * 2 * image, 0)


def test_what_layers_keep() -> None:
    """One layer between two that need no more than their own input."""
    from keras import layers

    image, grown = 8 * 8 * 3 * 4, 8 * 8 * 16 * 4

    def kept(*between: Any) -> int:
        model = built(layers.Conv2D(16, 1), *between, layers.Conv2D(2, 1, use_bias=False))
        return predicted(model).activations - image

    plain = kept()
    assert plain == grown
    assert kept(layers.Activation("relu")) == plain
    assert kept(layers.BatchNormalization()) == 2 * grown
    assert kept(layers.BatchNormalization(), layers.ReLU()) == 2 * grown
    assert kept(layers.Activation("swish")) == 2 * grown
    assert kept(layers.Dropout(0.5)) == grown + grown // 4
    assert kept(layers.Dropout(0.0)) == grown
    assert kept(layers.MaxPooling2D(2)) == grown + grown // 4 + grown // 16


def test_half_precision_halves_activations_and_keeps_narrow_weights() -> None:
    import keras
    from keras import layers

    def model() -> Any:
        return built(layers.Conv2D(16, 3, padding="same", activation="relu"), layers.Conv2D(16, 3, padding="same"))

    wide = predicted(model(), batch=100)
    keras.config.set_dtype_policy("mixed_bfloat16")
    narrow = predicted(model(), batch=100)
    images, results = 100 * 8 * 8 * 3 * 4, 100 * 8 * 8 * 16 * 4
    assert wide.activations == images + results
    assert narrow.weights == wide.weights
    assert narrow.activations == images + results // 2 + (3 * 3 * 16 + 1) * 16 * 2


def test_a_model_within_a_model_counts_like_its_layers() -> None:
    import keras
    from keras import layers

    def base() -> Any:
        inputs = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
        shortcut = x
        x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
        return keras.Model(inputs, layers.Activation("relu")(layers.Add()([x, shortcut])))

    within = built(base(), layers.Flatten(), layers.Dense(10))
    one = base()
    flat = keras.Model(one.input, layers.Dense(10)(layers.Flatten()(one.output)))
    assert predicted(within, batch=16) == predicted(flat, batch=16)
    # The images, three of the four results (two convolutions' and the end's), and nothing for the sum.
    assert predicted(flat, batch=16).activations == 16 * 8 * 8 * (3 + 3 * 4) * 4


def test_a_layer_that_is_not_known_makes_no_prediction() -> None:
    from keras import layers

    assert predict(built(layers.Conv3DTranspose(2, 1), shape=(4, 4, 4, 1)), batch=1) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 75_497_472, 100 * MIB, 384 * MIB, 700 * MIB])
def test_padding_is_the_rest_of_a_region_that_nobody_else_gets(size: int) -> None:
    from bench.workloads.memory import _padding

    region = 2 ** math.ceil(math.log2(size))
    assert _padding(size) == (region - size if region - size < 128 * MIB else 0)
