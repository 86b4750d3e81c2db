"""What --freeze takes out of the gradient, the exchange and the optimizer."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.errors import UsageError
from bench.workloads import MODELS, outline
from bench.workloads.freezing import check, freeze_layers, layers_with_weights
from strategies.base import NumericsConfig, Shard, Workload
from tests.benchmark import ROOT
from tests.frameworks.trainers import job as job_of
from tests.frameworks.trainers import nodes_of


def job(freeze: str | None = None, **numerics: Any) -> Workload:
    return job_of(freeze=freeze, numerics=NumericsConfig(**numerics))


def trainer(work: Workload, average: Any = None) -> Any:
    import tensorflow as tf

    from strategies.training import Exchange, ReplicatedTrainer

    exchange = Exchange(average=average, name="ring") if average else None
    return ReplicatedTrainer(tf.distribute.get_strategy(), work, Shard(first=0, count=1, total=1), exchange)


def trained(model: Any) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def small_model(**inside: Any) -> Any:
    """A convolution and a batch normalisation in a model of their own, then a dense layer: 3 layers with weights."""
    import keras
    from keras import layers

    base = keras.Sequential([keras.Input((28, 28, 1)), layers.Conv2D(2, 3), layers.BatchNormalization(**inside)])
    return keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(10)])


def guide() -> dict[str, list[str]]:
    """The table of docs/transfer.md: model -> what is left to train, all parameters, those that are trained."""
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs" / "transfer.md").read_text(), re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def test_the_guide_has_every_model() -> None:
    assert [*guide()] == [*MODELS]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_left_of_a_model_without_its_base_is_what_the_guide_says(name: str) -> None:
    model = outline(MODELS[name])
    freeze_layers(model, "base", name=name, head=MODELS[name].head)
    left = [layer for _, layer in layers_with_weights(model) if layer.trainable]
    head = ", ".join(f"{type(layer).__name__} {layer.units}" for layer in left)
    assert guide()[name] == [head, f"{model.count_params():,}", f"{trained(model):,}"]


@pytest.mark.parametrize(
    ("name", "freeze", "left"),
    [("mnist_cnn", "1", 51_264 + 10_250), ("mnist_cnn", "2", 10_250), ("vgg16_cifar", "14", 5_130)],
)
def test_what_is_left_without_the_first_layers(name: str, freeze: str, left: int) -> None:
    model = outline(MODELS[name])
    freeze_layers(model, freeze, name=name, head=MODELS[name].head)
    assert trained(model) == left


def test_models_inside_a_model_are_looked_into() -> None:
    model = small_model()
    paths = [path for path, _ in layers_with_weights(model)]
    assert paths == [
        "layers/sequential/layers/conv2d",
        "layers/sequential/layers/batch_normalization",
        "layers/dense",
    ]
    freeze_layers(model, "1", name="m", head=1)
    assert trained(model) == 4 + 30
    freeze_layers(model, "base", name="m", head=1)
    assert trained(model) == 30


@pytest.mark.parametrize("freeze", ["bases", "0", "-1", "1.5", "", "00", "²", "1e3", "9" * 12])
def test_other_words_are_refused_before_anything_starts(freeze: str) -> None:
    with pytest.raises(UsageError, match=r"^--freeze is .*: give base \(all before the classifier head\), or a number"):
        check(freeze)


@pytest.mark.parametrize(("freeze", "head"), [("3", 1), ("4", 1), ("999999999", 1), ("base", 3)])
def test_what_would_leave_nothing_to_train_is_refused(freeze: str, head: int) -> None:
    check(freeze)
    with pytest.raises(UsageError, match=rf"^--freeze {freeze}, but model 'm' has 3 layer.*from 1 to 2, or base"):
        freeze_layers(small_model(), freeze, name="m", head=head)


def test_a_model_of_one_layer_has_nothing_to_freeze() -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(UsageError, match=r"has 1 layer.*leave --freeze out"):
        freeze_layers(model, "base", name="m", head=1)


def test_layers_left_without_trainable_weights_are_refused() -> None:
    model = small_model()
    model.layers[-1].trainable = False
    with pytest.raises(UsageError, match="leaves nothing to train in model 'm'"):
        freeze_layers(model, "2", name="m", head=1)


def test_the_traced_step_differentiates_and_exchanges_nothing_of_frozen_layers() -> None:
    exchanged = []

    def average(gradients: list[Any]) -> list[Any]:
        exchanged.append([tuple(gradient.shape) for gradient in gradients])
        return gradients

    whole, frozen = ([node.op for node in nodes_of(trainer(job(kept), average))] for kept in (None, "base"))
    assert exchanged[0] == [(5, 5, 1, 32), (32,), (5, 5, 32, 64), (64,), (1024, 10), (10,)]
    assert exchanged[1] == [(1024, 10), (10,)]
    assert whole.count("Conv2D") == frozen.count("Conv2D") == 2
    backward = ("Conv2DBackpropFilter", "Conv2DBackpropInput", "MaxPoolGrad", "ReluGrad")
    assert [whole.count(name) for name in backward] == [2, 2, 2, 2]  # the gradient of the images is pruned later
    assert [frozen.count(name) for name in backward] == [0, 0, 0, 0]
    assert whole.count("AssignSubVariableOp") - frozen.count("AssignSubVariableOp") == 4


@pytest.mark.parametrize("numerics", [{}, {"xla": True}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_frozen_weights_stay_and_the_others_move(numerics: dict[str, Any]) -> None:
    one = trainer(job(freeze="1", **numerics))
    before = [variable.numpy() for variable in one.model.variables]
    one.run(4)()
    moved = [bool((old != now.numpy()).any()) for old, now in zip(before, one.model.variables, strict=True)]
    assert moved == [False, False, True, True, True, True]
    assert len(one.weights(0)) == 4


@pytest.mark.parametrize(("freeze", "moves"), [(None, True), ("1", True), ("base", False)])
def test_frozen_batch_normalisation_keeps_its_statistics(freeze: str | None, moves: bool) -> None:
    def build() -> Any:
        model = small_model(momentum=0.5)
        if freeze:
            freeze_layers(model, freeze, name="m", head=1)
        return model

    one = trainer(replace(job(), build_model=build))
    statistics = [variable for variable in one.model.non_trainable_variables if "moving" in variable.path]
    before = [variable.numpy() for variable in statistics]
    (performed,) = one.run(4)()
    assert len(statistics) == 2
    assert [bool((old != now.numpy()).any()) for old, now in zip(before, statistics, strict=True)] == [moves] * 2
    assert np.isfinite(performed.loss).all()
