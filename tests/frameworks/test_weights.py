"""What --weights loads, and what it says of files that do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import frameworks
from bench.agreement import compare
from bench.errors import EnvironmentFault, UsageError
from bench.workloads import MODELS, build_model, workload
from bench.workloads.freezing import layers_with_weights
from bench.workloads.weights import check, digest, load_weights
from strategies.base import NumericsConfig

frameworks.load()


def model(*units: int, filters: int = 2, convolutions: int = 1) -> Any:
    """Convolutions and a batch normalisation, then dense layers."""
    import keras
    from keras import layers

    base = [layers.Conv2D(filters, 3) for _ in range(convolutions)]
    dense = [layers.Dense(count) for count in units]
    stack = [*base, layers.BatchNormalization(), layers.Flatten(), layers.Dropout(0.5), *dense]
    return keras.Sequential([keras.Input((8, 8, 1)), *stack])


def values(one: Any) -> list[Any]:
    return [weight.numpy() for weight in one.weights]


def equal(one: Any, other: Any) -> list[bool]:
    return [bool((a == b).all()) for a, b in zip(values(one), values(other), strict=True)]


def load(one: Any, path: Path, head: int = 1, *, base_only: bool = False) -> str | None:
    return load_weights(one, path, name="m", head=head, base_only=base_only)


def randomised(one: Any) -> Any:
    """With values that no initialiser gives, so that what was loaded can be told from what was not."""
    random = np.random.default_rng(7)
    one.set_weights([random.random(weight.shape, np.float32) for weight in one.weights])
    return one


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    """A model with 3 outputs and its file."""
    one = randomised(model(3))
    one.save_weights(tmp_path / "one.weights.h5")
    return one, tmp_path / "one.weights.h5"


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_all_weights_come_from_the_file(tmp_path: Path, suffix: str) -> None:
    one, other = randomised(model(4, 3)), model(4, 3)
    one.compile("adam", "mse")
    one.train_on_batch(np.ones((2, 8, 8, 1)), np.ones((2, 3)))
    (one.save_weights if suffix == ".weights.h5" else one.save)(tmp_path / f"one{suffix}")
    assert not all(equal(one, other))
    assert load(other, tmp_path / f"one{suffix}") is None
    assert all(equal(one, other))


@pytest.mark.parametrize(
    "name", [*(name for name in MODELS if name not in ("alexnet", "vgg16", "vgg19")), "MobileNetV2", "nested"]
)
def test_our_paths_are_those_of_keras(tmp_path: Path, name: str) -> None:
    """Saved by Keras, loaded by us, for every kind of layer that the models have."""
    import keras

    def build() -> Any:
        if name in MODELS:
            return build_model(MODELS[name], seed=1)
        base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35)
        if name == "MobileNetV2":
            return base
        return keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])

    one, other = randomised(build()), build()
    one.save_weights(tmp_path / "one.weights.h5")
    assert load(other, tmp_path / "one.weights.h5") is None
    assert all(equal(one, other))
    assert len([*layers_with_weights(one)]) > 2


def test_a_workload_begins_with_the_weights_and_frozen_ones_keep_them(tmp_path: Path) -> None:
    one = randomised(build_model(MODELS["mnist_cnn"], seed=1))
    one.save_weights(tmp_path / "one.weights.h5")
    job = workload(
        model="mnist_cnn",
        dataset="digits",
        data_dir=None,
        seed=1,
        batch_per_device=8,
        global_batch=8,
        steps=lambda _num_samples: 2,
        numerics=NumericsConfig(),
        freeze="base",
        weights=tmp_path / "one.weights.h5",
    )
    built = job.build_model()
    assert equal(one, built) == [True] * 4 + [False] * 2
    assert len(built.trainable_variables) == 2


def test_a_head_of_other_classes_is_refused_with_the_remedy(saved: tuple[Any, Path]) -> None:
    with pytest.raises(UsageError) as caught:
        load(model(5), saved[1])
    said = str(caught.value)
    assert said == (
        f"--weights {str(saved[1])!r} does not fit model 'm': kernel of layer dense is float32 (72, 3) in the file, "
        "float32 (72, 5) in the model: the classifier head alone differs; --freeze base loads all but the head, which "
        "begins at random"
    )


@pytest.mark.parametrize(("units", "head"), [((3,), 1), ((5,), 1), ((4, 3), 2), ((3, 3), 2)])
def test_of_a_frozen_base_the_head_is_left_alone_whether_it_fits_or_not(
    saved: tuple[Any, Path], units: tuple[int, ...], head: int
) -> None:
    one, path = saved
    other = model(*units)
    before = values(other)
    told = load(other, path, head, base_only=True)
    names = ", ".join(["dense", "dense_1"][:head])
    assert told == f"Weights: the base of m is that of {path.name}, its classifier head begins at random: {names}"
    assert all((a == b).all() for a, b in zip(values(other)[:6], values(one)[:6], strict=True))
    assert all((a == b).all() for a, b in zip(values(other)[6:], before[6:], strict=True))


def test_a_file_without_a_head_does_for_a_frozen_base(tmp_path: Path) -> None:
    import keras

    one = randomised(keras.Sequential([keras.Input((8, 8, 1)), *model(3).layers[:-1]]))
    one.save_weights(tmp_path / "base.weights.h5")
    told = load(model(3), tmp_path / "base.weights.h5", base_only=True)
    assert told is not None
    with pytest.raises(UsageError, match=r"the file has no layer dense: the classifier head alone differs"):
        load(model(3), tmp_path / "base.weights.h5")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"filters": 4},
            "kernel of layer conv2d is float32 (3, 3, 1, 2) in the file, float32 (3, 3, 1, 4) in the model "
            "(and 1 more)",
        ),
        ({"convolutions": 2}, "the file has no layer conv2d_1"),
    ],
)
@pytest.mark.parametrize("base_only", [False, True])
def test_another_base_is_refused(saved: tuple[Any, Path], other: dict[str, int], message: str, base_only: bool) -> None:
    built = model(3, **other)
    before = values(built)
    with pytest.raises(UsageError) as caught:
        load(built, saved[1], base_only=base_only)
    assert f"does not fit model 'm': {message}: give a file that this model wrote" in str(caught.value)
    assert all((a == b).all() for a, b in zip(before, values(built), strict=True))


@pytest.mark.parametrize("base_only", [False, True])
def test_a_file_with_more_layers_of_the_base_is_refused(tmp_path: Path, base_only: bool) -> None:
    """Keras itself would leave them out without a word."""
    import keras
    from keras import layers

    def stack(count: int) -> Any:
        same = [layers.Conv2D(1, 3, padding="same") for _ in range(count)]
        return keras.Sequential([keras.Input((4, 4, 1)), *same, layers.Flatten(), layers.Dense(2)])

    stack(3).save_weights(tmp_path / "three.weights.h5")
    with pytest.raises(UsageError, match=r"the file has layer conv2d_2, which the model lacks"):
        load(stack(2), tmp_path / "three.weights.h5", base_only=base_only)


def test_a_layer_with_fewer_weights_is_refused(tmp_path: Path) -> None:
    import keras

    one = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, use_bias=False)])
    one.save_weights(tmp_path / "one.weights.h5")
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(UsageError, match=r"layer dense has 1 weights in the file, 2 in the model"):
        load(other, tmp_path / "one.weights.h5")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.weights.h5", "no such file on this host; every process of the run reads it"),
        ("old.h5", r"Keras 2 wrote such files; load it into the model there, and write it anew by"),
        ("x.npz", r"give what Keras 3 wrote by model.save_weights\('NAME.weights.h5'\)"),
        ("folder.keras", "no such file on this host"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_before_anything_starts(tmp_path: Path, name: str, message: str) -> None:
    for other in ("old.h5", "x.npz"):
        (tmp_path / other).touch()
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(UsageError, match=message):
        check(tmp_path / name)


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.keras"
    path.write_bytes(b"abc")
    assert digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(EnvironmentFault, match=r"none' cannot be read: No such file"):
        digest(tmp_path / "none")


def test_a_rank_with_another_file_is_named() -> None:
    first: dict[str, Any] = {"hostname": "a", "settings": "s", "versions": {}, "gpus": [], "weights": "1", "data": None}
    compare([first, first])
    with pytest.raises(UsageError, match=r"rank 1 \(b\) has another file for --weights than rank 0 \(a\): give all"):
        compare([first, first | {"hostname": "b", "weights": "2"}])


def test_a_file_that_is_no_archive_or_no_hdf5_is_one_line(tmp_path: Path, saved: tuple[Any, Path]) -> None:
    for name in ("a.keras", "a.weights.h5"):
        (tmp_path / name).write_bytes(b"neither")
        with pytest.raises(EnvironmentFault, match=r"cannot be used: .*\. Write or copy it again$") as caught:
            load(model(3), tmp_path / name)
        assert "\n" not in str(caught.value)
    shutil.copy(saved[1], tmp_path / "b.keras")
    with pytest.raises(EnvironmentFault, match="is not a zip file"):
        load(model(3), tmp_path / "b.keras")
