"""Models and input, in TensorFlow: the numbers that they must reproduce."""

from __future__ import annotations

import numpy as np
import pytest

from bench import frameworks
from bench.errors import UsageError
from bench.workloads import MODELS, build_model, check
from bench.workloads.arithmetic import forward_flops
from bench.workloads.datasets import DATASETS, Images
from strategies.base import Shard

frameworks.load()

PARAMETERS = {
    "mnist_cnn": 62_346,
    "digits_cnn": 600_165,
    "transfer_cnn": 26_821,
    "cifar_cnn": 81_578,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg16_cifar": 14_982_474,
}
FLOPS = {
    # By hand: 2 x (24*24*5*5*1*32 + 8*8*5*5*32*64 + 1024*10).
    "mnist_cnn": 2 * (460_800 + 3_276_800 + 10_240),
    # Published for VGG-16: 15.47 G multiply-adds, 30.94 GFLOP an image.
    "vgg16": 30_940_528_640,
}


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_and_shapes(name: str) -> None:
    model = build_model(MODELS[name], seed=1)
    assert model.count_params() == PARAMETERS[name]
    assert model.input_shape[1:] == MODELS[name].input_shape
    assert model.output_shape[1:] == (MODELS[name].num_classes,)
    flops = forward_flops(model)
    assert flops is not None
    if name in FLOPS:
        assert flops == FLOPS[name]


def test_the_seed_alone_decides_the_weights() -> None:
    one, again, other = (build_model(MODELS["mnist_cnn"], seed) for seed in (1, 1, 2))
    for a, b, c in zip(one.trainable_variables, again.trainable_variables, other.trainable_variables, strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()
        assert np.asarray(a).ndim == 1 or (np.asarray(a) != np.asarray(c)).any()  # biases start at 0


def test_arithmetic_that_is_not_known_is_none() -> None:
    import keras

    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2DTranspose(2, 3)])
    assert forward_flops(model) is None


def test_batches_hold_the_scaled_samples_of_the_shard_in_order() -> None:
    from bench.workloads.order import sample_order
    from bench.workloads.pipeline import image_batches

    images = DATASETS["synthetic"].load(None, (4, 4, 1), 1)
    shard = Shard(first=1, count=1, total=2)
    batches = list(image_batches(images.pixels, images.labels, shard, batch=3, steps=4, seed=5))
    assert len(batches) == 4
    order = sample_order(len(images.labels), 5, 24).reshape(4, 2, 3)[:, 1]
    for (pixels, labels, samples), indices in zip(batches, order, strict=True):
        assert pixels.dtype == "float32"
        assert np.allclose(pixels.numpy(), images.pixels[indices] / 255.0)
        assert (labels.numpy() == images.labels[indices]).all()
        assert (samples.numpy() == indices).all()


def test_images_are_fitted_to_the_model_once() -> None:
    from bench.workloads.pipeline import fit_to_model

    gray = Images(np.full((2, 8, 8, 1), 100, np.uint8), np.zeros(2, np.int32))
    pixels, _ = fit_to_model(gray, (32, 32, 3))
    assert pixels.shape == (2, 32, 32, 3)
    assert (pixels == 100).all()
    back, _ = fit_to_model(Images(pixels, gray.labels), (28, 28, 1))
    assert back.shape == (2, 28, 28, 1)
    assert abs(back.astype(int) - 100).max() <= 1
    same, _ = fit_to_model(gray, (8, 8, 1))
    assert same is gray.pixels


def test_images_that_would_not_fit_into_memory_are_refused() -> None:
    from bench.workloads.pipeline import fit_to_model

    many = Images(np.zeros((60_000, 2, 2, 1), np.uint8), np.zeros(60_000, np.int32))
    with pytest.raises(UsageError, match="GiB"):
        fit_to_model(many, (224, 224, 3))


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        (
            "mnist_cn",
            "synthetic",
            "unknown model 'mnist_cn'. Did you mean 'mnist_cnn'? Valid: cifar_cnn, digits_cnn",
        ),
        ("mnist_cnn", "digit", "unknown dataset 'digit'. Did you mean 'digits'? Valid: cifar10, digits"),
    ],
)
def test_unknown_names_list_the_table_and_suggest(model: str, dataset: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(model, dataset, None)
    assert message in str(caught.value)
