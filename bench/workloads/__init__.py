"""What is trained: the models, a table of data sets, and the one workload that every strategy runs.

Importing this package loads no framework; the builders do.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, unknown_name
from bench.workloads.datasets import DATASETS
from bench.workloads.models import MODELS, ModelSpec, model_spec

if TYPE_CHECKING:
    from strategies.base import NumericsConfig, Workload

__all__ = ["LEARNING_RATE", "MODELS", "ModelSpec", "build_model", "check", "outline", "workload"]

LEARNING_RATE = 0.01
"""Of plain SGD."""

_DTYPE_POLICIES = {"fp32": "float32", "tf32": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}
"""Precision -> Keras's name; TF32 is a property of the device."""


def check(
    model: str,
    dataset: str,
    data_dir: Path | None,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
) -> ModelSpec:
    """The model, for images and classes as asked for. Raises UsageError for a name that no table holds, images that are
    too small, more classes in the data than in the model, and a missing data file."""
    spec = model_spec(model, image_size, num_classes)
    if dataset not in DATASETS:
        raise unknown_name("dataset", dataset, DATASETS)
    data = DATASETS[dataset]
    data.find(data_dir)
    if data.num_classes > spec.num_classes and not data.made_up:
        raise UsageError(
            f"dataset {dataset!r} has {data.num_classes} classes but model {model!r} tells {spec.num_classes} apart: "
            f"--num-classes {data.num_classes} gives it as many"
        )
    return spec


def build_model(spec: ModelSpec, seed: int, precision: str = "fp32", *, dropout: bool = True) -> Any:
    """The Keras model with the weights that `seed` gives, its layers computing in `precision`. Loads Keras."""
    import keras

    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(_DTYPE_POLICIES[precision])
    model = _build(spec)
    if not dropout:
        _leave_out_dropout(model)
    return model


def outline(spec: ModelSpec) -> Any:
    """The Keras model whose weights have shapes and no values, for counting in little time and memory. Loads Keras, and
    makes it forget its settings: for processes that train nothing."""
    import keras

    keras.config.set_dtype_policy("float32")
    with keras.StatelessScope(initialize_variables=False):
        model = _build(spec)
    # Else whatever is built next would give these weights their values too.
    keras.backend.clear_session()
    return model


def _build(spec: ModelSpec) -> Any:
    module, _, function = spec.builder.partition(":")
    return getattr(import_module(module), function)(spec)


def _leave_out_dropout(model: Any) -> None:
    """Of the model and of models inside it."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _leave_out_dropout(layer)
        elif isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0


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
    image_size: int | None = None,
    num_classes: int | None = None,
) -> Workload:
    """The training that every strategy runs, with input for `steps` steps. Loads TensorFlow.

    A `provable` one keeps which samples it trains, and leaves out dropout: replicas draw different numbers.
    Raises UsageError for a data file that is missing, and EnvironmentFault for one that cannot be used.
    """
    import keras

    from bench.workloads.pipeline import fit_to_model, image_batches
    from strategies.base import Workload

    spec = check(model, dataset, data_dir, image_size=image_size, num_classes=num_classes)
    images, labels = fit_to_model(DATASETS[dataset].load(data_dir, spec.input_shape, seed), spec.input_shape)
    labels = labels % spec.num_classes  # of made-up labels there may be more
    return Workload(
        build_model=lambda: build_model(spec, seed, numerics.precision, dropout=not provable),
        build_optimizer=lambda: keras.optimizers.SGD(LEARNING_RATE),
        build_input=lambda shard: image_batches(images, labels, shard, batch=batch_per_device, steps=steps, seed=seed),
        global_batch=global_batch,
        numerics=numerics,
        provable=provable,
    )
