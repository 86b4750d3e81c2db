"""What is trained: a table of models, a table of data sets, and the one workload that every strategy runs.

Importing this package loads no framework; the builders do.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, unknown_name
from bench.workloads.datasets import DATASETS

if TYPE_CHECKING:
    from strategies.base import NumericsConfig, Workload

LEARNING_RATE = 0.01
"""Of plain SGD."""

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


MODELS = {
    "mnist_cnn": ModelSpec("bench.workloads.cnn:mnist_cnn", (28, 28, 1), 10),
    "cifar_cnn": ModelSpec("bench.workloads.cnn:cifar_cnn", (32, 32, 3), 10),
    "vgg16": ModelSpec("bench.workloads.vgg:vgg16", (224, 224, 3), 1000),
    "vgg19": ModelSpec("bench.workloads.vgg:vgg19", (224, 224, 3), 1000),
    "vgg16_cifar": ModelSpec("bench.workloads.vgg:vgg16_cifar", (32, 32, 3), 10),
}


def check(model: str, dataset: str, data_dir: Path | None) -> ModelSpec:
    """The model's row of the table. Raises UsageError for a name that no table holds and for a missing data file."""
    if model not in MODELS:
        raise unknown_name("model", model, MODELS)
    if dataset not in DATASETS:
        raise unknown_name("dataset", dataset, DATASETS)
    spec = MODELS[model]
    DATASETS[dataset].find(data_dir)
    if DATASETS[dataset].num_classes > spec.num_classes:
        classes = DATASETS[dataset].num_classes
        raise UsageError(f"dataset {dataset!r} has {classes} classes but model {model!r} has {spec.num_classes}")
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


def workload(
    *,
    model: str,
    dataset: str,
    data_dir: Path | None,
    seed: int,
    batch_per_device: int,
    global_batch: int,
    steps: int,
    numerics: NumericsConfig,
    provable: bool = False,
) -> Workload:
    """The training that every strategy runs, with input for `steps` steps. Loads TensorFlow.

    A `provable` one keeps which samples it trains, and leaves out dropout: replicas draw different numbers.
    Raises UsageError for a data file that is missing, and EnvironmentFault for one that cannot be used.
    """
    import keras

    from bench.workloads.pipeline import fit_to_model, image_batches
    from strategies.base import Workload

    spec = check(model, dataset, data_dir)
    images, labels = fit_to_model(DATASETS[dataset].load(data_dir, spec.input_shape, seed), spec.input_shape)
    return Workload(
        build_model=lambda: build_model(spec, seed, numerics.precision, dropout=not provable),
        build_optimizer=lambda: keras.optimizers.SGD(LEARNING_RATE),
        build_input=lambda shard: image_batches(images, labels, shard, batch=batch_per_device, steps=steps, seed=seed),
        global_batch=global_batch,
        numerics=numerics,
        provable=provable,
        held_bytes=images.nbytes + labels.nbytes,
    )
