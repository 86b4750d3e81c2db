"""Models and input, in TensorFlow: the numbers that they must reproduce."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench import frameworks
from bench.errors import UsageError
from bench.plan import DEFAULT_BATCH_SIZE
from bench.workloads import MODELS, _leave_out_dropout, build_model, check, model_spec, outline, workload
from bench.workloads.__main__ import describe, read_costs
from bench.workloads.datasets import DATASETS, Images
from bench.workloads.models import CATALOGUE
from strategies.base import NumericsConfig, Shard, Workload
from tests.benchmark import ROOT
from tests.frameworks.trainers import job, trainer

frameworks.load()

PARAMETERS = {
    "mnist_cnn": 62_346,
    "digits_cnn": 600_165,
    "transfer_cnn": 26_821,
    "fashion_cnn": 1_413_834,
    "lenet5": 61_706,
    "cifar_cnn": 81_578,
    "alexnet": 62_378_344,
    "small_xception": 2_740_290,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg16_cifar": 14_982_474,
    "mobilenetv2_mnist": 2_270_794,
    "keras:Xception": 22_910_480,
    "keras:VGG16": 138_357_544,
    "keras:VGG19": 143_667_240,
    "keras:ResNet50": 25_636_712,
    "keras:ResNet101": 44_707_176,
    "keras:ResNet152": 60_419_944,
    "keras:ResNet50V2": 25_613_800,
    "keras:ResNet101V2": 44_675_560,
    "keras:ResNet152V2": 60_380_648,
    "keras:InceptionV3": 23_851_784,
    "keras:InceptionResNetV2": 55_873_736,
    "keras:MobileNet": 4_253_864,
    "keras:MobileNetV2": 3_538_984,
    "keras:DenseNet121": 8_062_504,
    "keras:DenseNet169": 14_307_880,
    "keras:DenseNet201": 20_242_984,
    "keras:NASNetMobile": 5_326_716,
    "keras:NASNetLarge": 88_949_818,
    "keras:EfficientNetB0": 5_330_571,
    "keras:EfficientNetB1": 7_856_239,
    "keras:EfficientNetB2": 9_177_569,
    "keras:EfficientNetB3": 12_320_535,
    "keras:EfficientNetB4": 19_466_823,
    "keras:EfficientNetB5": 30_562_527,
    "keras:EfficientNetB6": 43_265_143,
    "keras:EfficientNetB7": 66_658_687,
}
"""As keras.applications documents them, and as their authors count; the others by hand from the layers."""

OWN = [name for name in MODELS if PARAMETERS[name] < 3_000_000]


def layers_of(model: Any, kind: type) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


def test_the_guide_says_what_models_cost() -> None:
    lines = re.findall(r"^\| `([^`]+)` \|(.*)\|$", (ROOT / "docs" / "models.md").read_text(), re.M)
    table = {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}
    costs = read_costs()
    assert list(table) == list(costs) == [*MODELS, *CATALOGUE] == list(PARAMETERS)
    for name, row in costs.items():
        given = ["x".join(map(str, row["input"])), f"{row['num_classes']:,}", f"{PARAMETERS[name]:,}"]
        flops = [f"{row[column] / 1e9:.3g}" for column in ("flops_per_image", "train_flops_per_image")]
        assert table[name][:5] == [*given, *flops], name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_model_is_what_the_table_of_costs_says() -> None:
    """All built once, without values in their weights."""
    import keras

    costs = read_costs()
    for name, spec in (MODELS | CATALOGUE).items():
        model = outline(spec)
        assert model.count_params() == PARAMETERS[name], name
        assert model.input_shape[1:] == spec.input_shape
        assert model.output_shape[1:] == (spec.num_classes,)
        assert [each.dtype for each in model.outputs] == ["float32"]
        assert bool(layers_of(model, keras.layers.BatchNormalization)) == spec.batch_norm, name
        assert getattr(model.layers[-1], "activation", keras.activations.linear) is keras.activations.linear
        row = describe(spec, model, DEFAULT_BATCH_SIZE)
        assert costs[name] == {**row, "input": list(row["input"])}, f"{name}: see bench/workloads/__main__.py"


@pytest.mark.parametrize("name", MODELS)
def test_all_layers_compute_in_float64_where_the_table_says_so(name: str) -> None:
    spec = replace(MODELS[name], image_size=MODELS[name].least_size)
    layers = outline(spec, "fp64")._flatten_layers()
    assert all(layer.compute_dtype == "float64" for layer in layers) == spec.float64


@pytest.mark.parametrize("name", OWN)
def test_a_step_in_float64(name: str) -> None:
    """TensorFlow has each operation of it, forward and backward."""
    numerics, size = NumericsConfig(precision="fp64"), max(MODELS[name].least_size, 16)
    small = trainer("single", job(model=name, numerics=numerics, image_size=size, num_classes=10))
    (steps,) = small.run(1)()
    assert steps.loss.dtype == np.float64
    assert np.isfinite(steps.loss).all()


@pytest.mark.parametrize("name", OWN)
def test_other_images_and_classes(name: str) -> None:
    least = MODELS[name].least_size
    model = outline(model_spec(name, image_size=least, num_classes=7))
    assert (model.input_shape[1:3], model.output_shape[1:]) == ((least, least), (7,))
    with pytest.raises(UsageError, match=rf"--image-size {least - 1} .* give at least {least}"):
        model_spec(name, image_size=least - 1)


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.least_size > 1])
def test_the_smallest_image_is_the_smallest_that_can_be_built(name: str) -> None:
    spec = MODELS[name]
    outline(replace(spec, image_size=spec.least_size))
    with pytest.raises(ValueError, match=r"[Ii]nput|dimension"):
        outline(replace(spec, image_size=spec.least_size - 1))


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogues_smallest_image_is_that_of_keras(name: str) -> None:
    spec = CATALOGUE[name]
    with pytest.raises(UsageError, match=rf"--image-size {spec.least_size - 1} .* give at least {spec.least_size}"):
        model_spec(name, image_size=spec.least_size - 1)
    if "EfficientNet" not in name:  # which Keras builds for any image
        with pytest.raises(ValueError, match=rf"must be at least {spec.least_size}x{spec.least_size}"):
            outline(replace(spec, image_size=spec.least_size - 1))


@pytest.mark.parametrize("name", ["keras:Xception", "keras:InceptionV3", "keras:MobileNetV2", "keras:EfficientNetB0"])
def test_the_catalogues_smallest_image_is_enough(name: str) -> None:
    model = outline(model_spec(name, image_size=CATALOGUE[name].least_size, num_classes=7))
    assert model.output_shape == (None, 7)


def test_parameters_follow_images_and_classes() -> None:
    assert outline(model_spec("transfer_cnn", image_size=32, num_classes=10)).count_params() == (
        320 + 18_496 + 6 * 6 * 64 * 10 + 10
    )
    assert outline(model_spec("keras:MobileNetV2", 32, 10)).count_params() == 3_538_984 - 1281 * 990
    assert build_model(model_spec("digits_cnn", num_classes=10), seed=1).output_shape == (None, 10)


def test_efficientnet_gets_the_pixels_that_it_expects() -> None:
    """It divides by 255 itself, and ours are in [0, 1]."""
    import keras

    scaling, own = layers_of(outline(CATALOGUE["keras:EfficientNetB0"]), keras.layers.Rescaling)[:2]
    assert scaling.scale * own.scale == pytest.approx(1.0)
    assert not layers_of(outline(CATALOGUE["keras:MobileNet"]), keras.layers.Rescaling)


def test_dropout_can_be_left_out_of_models_inside_models() -> None:
    import keras

    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5)])
    model = keras.Sequential([inner, keras.layers.Dropout(0.2), keras.layers.Dense(2)])
    for each, count in ((model, 2), (outline(CATALOGUE["keras:EfficientNetB0"]), 10)):
        drawing = [layer for layer in each._flatten_layers() if hasattr(layer, "seed_generator")]
        assert len(drawing) == count
        assert all(layer.rate > 0 for layer in drawing)
        _leave_out_dropout(each)
        assert all(layer.rate == 0 for layer in drawing)


def test_without_dropout_training_draws_no_numbers() -> None:
    model = build_model(MODELS["fashion_cnn"], seed=1, dropout=False)
    images = np.random.default_rng(1).random((2, 28, 28, 1), np.float32)
    one, again = (np.asarray(model(images, training=True)) for _ in range(2))
    assert np.allclose(one, again, rtol=1e-4)


def test_local_response_normalisation_is_the_papers_in_every_precision() -> None:
    from bench.workloads.alexnet import LocalResponseNormalization

    given = np.arange(7, dtype=np.float32).reshape(1, 1, 1, 7)
    near = [sum(c * c for c in range(max(0, k - 2), min(6, k + 2) + 1)) for k in range(7)]
    wanted = [k / (2 + 1e-4 * near[k]) ** 0.75 for k in range(7)]
    assert np.allclose(np.asarray(LocalResponseNormalization()(given)).ravel(), wanted, rtol=1e-6)
    model = build_model(model_spec("alexnet", 67, 2), seed=1, precision="bf16")
    assert {layer.compute_dtype for layer in layers_of(model, LocalResponseNormalization)} == {"float32"}
    assert np.isfinite(np.asarray(model(np.ones((1, 67, 67, 3), np.float32)), np.float32)).all()


def job_of(model: str, dataset: str, batch: int) -> Workload:
    return workload(
        model=model,
        dataset=dataset,
        data_dir=None,
        seed=1,
        batch_per_device=batch,
        global_batch=batch,
        steps=lambda _num_samples: 4,
        numerics=NumericsConfig(),
    )


def test_a_step_takes_no_more_images_than_there_are() -> None:
    with pytest.raises(UsageError, match="dataset 'digits' has 1797 images to train and a global batch is 1798"):
        job_of("mnist_cnn", "digits", 1798)
    assert job_of("mnist_cnn", "digits", 1797).global_batch == 1797
    # Of made-up images there is no number.
    assert job_of("mnist_cnn", "synthetic", 4096).global_batch == 4096


def test_made_up_labels_fit_a_model_of_fewer_classes() -> None:
    job = job_of("digits_cnn", "synthetic", 64)
    labels = np.concatenate([batch[1] for batch in job.build_input(Shard(first=0, count=1, total=1)).take(4)])
    assert {*labels.tolist()} == {0, 1, 2, 3, 4}


def test_more_classes_than_the_model_has_are_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"10 classes of dataset 'digits' but model 'digits_cnn' has 5: --num-classes"):
        check("digits_cnn", "digits", None)
    assert check("digits_cnn", "digits", None, num_classes=10).num_classes == 10
    assert check("digits_cnn", "digits", None, classes="5-9").num_classes == 5


def test_the_seed_alone_decides_the_weights() -> None:
    one, again, other = (build_model(MODELS["mnist_cnn"], seed) for seed in (1, 1, 2))
    for a, b, c in zip(one.trainable_variables, again.trainable_variables, other.trainable_variables, strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()
        assert np.asarray(a).ndim == 1 or (np.asarray(a) != np.asarray(c)).any()  # biases start at 0


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
            "unknown model 'mnist_cn'. Did you mean 'mnist_cnn'? Valid: alexnet, cifar_cnn, digits_cnn",
        ),
        ("mnist_cnn", "digit", "unknown dataset 'digit'. Did you mean 'digits'? Valid: cifar10, digits"),
    ],
)
def test_unknown_names_list_the_table_and_suggest(model: str, dataset: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(model, dataset, None)
    assert message in str(caught.value)
