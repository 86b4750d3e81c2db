"""What is trained: a table of models, a table of data sets, and the one workload that every strategy runs.

Importing this package loads no framework; the builders do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, unknown_name
from bench.workloads.classes import chosen_classes
from bench.workloads.datasets import Cache, Dataset, Split
from bench.workloads.freezing import BASE, freeze_layers
from bench.workloads.optimizers import OPTIMIZERS, build_optimizer, rising
from bench.workloads.source import SETS, open_source
from bench.workloads.weights import load_weights

if TYPE_CHECKING:
    from bench.convergence import RateWarmup
    from strategies.base import NumericsConfig, Workload

_DTYPE_POLICIES = {"fp32": "float32", "tf32": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}
"""Precision -> Keras's name; TF32 is a property of the device."""


@dataclass(frozen=True)
class ModelSpec:
    """A model of the table: what it takes and what makes it."""

    builder: str
    """module:function, called without arguments; returns a Keras model that ends in logits."""
    input_shape: tuple[int, int, int]
    """(height, width, channels)."""
    num_classes: int
    head: int = 1
    """Layers with weights at the end that are the classifier head; those before them are the base."""


MODELS = {
    "mnist_cnn": ModelSpec("bench.workloads.cnn:mnist_cnn", (28, 28, 1), 10),
    "digits_cnn": ModelSpec("bench.workloads.cnn:digits_cnn", (28, 28, 1), 5, head=2),
    "transfer_cnn": ModelSpec("bench.workloads.cnn:transfer_cnn", (28, 28, 1), 5),
    "cifar_cnn": ModelSpec("bench.workloads.cnn:cifar_cnn", (32, 32, 3), 10),
    "vgg16": ModelSpec("bench.workloads.vgg:vgg16", (224, 224, 3), 1000),
    "vgg19": ModelSpec("bench.workloads.vgg:vgg19", (224, 224, 3), 1000),
    "vgg16_cifar": ModelSpec("bench.workloads.vgg:vgg16_cifar", (32, 32, 3), 10, head=2),
}


def check(
    model: str,
    dataset: str,
    data_dir: Path | None,
    *,
    classes: str | None = None,
    num_train_samples: int | None = None,
    evaluated: bool = False,
) -> ModelSpec:
    """The model's row of the table. Raises UsageError for a name that no table holds, for a missing data file, that of
    the test images too where there is to be an evaluation, and for more classes than the model or the data set has."""
    if model not in MODELS:
        raise unknown_name("model", model, MODELS)
    if dataset not in SETS:
        raise unknown_name("dataset", dataset, SETS)
    spec = MODELS[model]
    SETS[dataset].find(data_dir)
    if evaluated:
        SETS[dataset].find(data_dir, "test")
    if not isinstance(SETS[dataset], Dataset) and (classes is not None or num_train_samples is not None):
        raise UsageError(
            f"--classes and --num-train-samples choose among images in memory, and dataset {dataset!r} is read from "
            "files: leave them out, or write files of the images that you want"
        )
    of_data = SETS[dataset].classes(data_dir)
    chosen = chosen_classes(classes, dataset, of_data)
    if (count := len(chosen) if chosen else of_data) > spec.num_classes:
        raise UsageError(
            f"{count} classes of dataset {dataset!r} but model {model!r} has {spec.num_classes}: choose fewer with "
            "--classes, or another model"
        )
    return spec


def build_model(spec: ModelSpec, seed: int, precision: str = "fp32", *, dropout: bool = True) -> Any:
    """The Keras model with the weights that `seed` gives, its layers computing in `precision`. Loads Keras."""
    import keras

    module, _, function = spec.builder.partition(":")
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(_DTYPE_POLICIES[precision])
    model = getattr(import_module(module), function)()
    if not dropout:
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
    return model


def _begin(built: Any, spec: ModelSpec, *, name: str, weights: Path | None, freeze: str | None) -> str | None:
    """Gives a model the weights of a file and freezes layers, as asked for; what a user should know of that."""
    note = None
    if weights is not None:
        note = load_weights(built, weights, name=name, head=spec.head, base_only=freeze == BASE)
    if freeze is not None:
        freeze_layers(built, freeze, name=name, head=spec.head)
    return note


def workload(
    *,
    model: str,
    dataset: str,
    data_dir: Path | None,
    seed: int,
    batch_per_device: int,
    global_batch: int,
    steps: Callable[[int], int],
    numerics: NumericsConfig,
    optimizer: str = "sgd",
    learning_rate: float = OPTIMIZERS["sgd"].learning_rate,
    rate_warmup: RateWarmup | None = None,
    forward: bool = False,
    provable: bool = False,
    split: Split = "train",
    cache: Cache | None = None,
    freeze: str | None = None,
    weights: Path | None = None,
    classes: str | None = None,
    num_train_samples: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Workload:
    """The training that every strategy runs, with input for as many steps as `steps` says for the number of images.
    Loads TensorFlow.

    With the split `rest` the test images are held out, to be evaluated on. A `provable` one keeps which samples it
    trains, and leaves out dropout: replicas draw different numbers. `tell` gets what a user should know of the model
    when it is built. Raises UsageError for a data file that is missing, and EnvironmentFault for one that cannot be
    used; so does building the model for the file of weights.
    """
    from strategies.base import HeldOut, Workload

    spec = check(model, dataset, data_dir, classes=classes, num_train_samples=num_train_samples)
    chosen = chosen_classes(classes, dataset, SETS[dataset].classes(data_dir))
    opened = partial(open_source, dataset, data_dir, spec.input_shape, seed, classes=chosen)
    data = opened(split, cache=cache, provable=provable, count=num_train_samples)
    num_steps = steps(data.num_samples)
    rate: Any = learning_rate
    if rate_warmup is not None:
        rate = rising(rate_warmup.first, learning_rate, rate_warmup.updates(data.num_samples))
    held_out = None
    if split == "rest":
        test = opened("test")
        held_out = HeldOut(
            num_samples=test.num_samples,
            batches=lambda shard: test.evaluation_batches(shard, batch=batch_per_device),
            steps=lambda shard: test.evaluation_steps(shard, batch=batch_per_device),
        )
    tell_once = lru_cache(tell)

    def build() -> Any:
        built = build_model(spec, seed, numerics.precision, dropout=not provable)
        if note := _begin(built, spec, name=model, weights=weights, freeze=freeze):
            tell_once(note)
        return built

    return Workload(
        build_model=build,
        build_optimizer=lambda: build_optimizer(optimizer, rate),
        build_input=lambda shard: data.batches(shard, batch=batch_per_device, steps=num_steps),
        data=data,
        global_batch=global_batch,
        numerics=numerics,
        provable=provable,
        forward=forward,
        held_out=held_out,
    )
