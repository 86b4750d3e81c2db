"""What is trained: models, data sets, and the one workload that every strategy runs.

Importing this package loads no framework; the builders do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, unknown_name
from bench.workloads.classes import chosen_classes
from bench.workloads.datasets import Cache, Dataset, Split
from bench.workloads.freezing import BASE, freeze_layers
from bench.workloads.models import MODELS, ModelSpec, model_spec
from bench.workloads.optimizers import OPTIMIZERS, build_optimizer, rising
from bench.workloads.records import describe_images
from bench.workloads.source import SETS, Source, check_batch, open_source
from bench.workloads.weights import load_weights

if TYPE_CHECKING:
    from bench.convergence import RateWarmup
    from strategies.base import NumericsConfig, Precision, Workload

__all__ = ["MODELS", "ModelSpec", "build_model", "check", "check_precision", "model_spec", "outline", "workload"]

_DTYPE_POLICIES = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "float32",
    "bf16": "mixed_bfloat16",
    "fp16": "mixed_float16",
}
"""Precision -> Keras's name; TF32 is a property of the device."""


def check(
    model: str,
    dataset: str,
    data_dir: Path | None,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    classes: str | None = None,
    num_train_samples: int | None = None,
    evaluated: bool = False,
) -> ModelSpec:
    """The model, for images and classes as asked for. Raises UsageError for a name that no table holds, for images that
    are too small, for a missing data file, that of the test images too where there is to be an evaluation, and for more
    classes than the model or the data set has."""
    spec = model_spec(model, image_size, num_classes)
    if dataset not in SETS:
        raise unknown_name("dataset", dataset, SETS)
    SETS[dataset].find(data_dir)
    if evaluated:
        SETS[dataset].find(data_dir, "test")
    if not isinstance(SETS[dataset], Dataset) and (classes is not None or num_train_samples is not None):
        raise UsageError(
            f"--classes and --num-train-samples choose among images in memory, and dataset {dataset!r} is read from "
            "files: leave them out, or write files of the images that you want"
        )
    chosen = _trained_classes(spec, dataset, data_dir, classes)
    if (count := len(chosen) if chosen else SETS[dataset].classes(data_dir)) > spec.num_classes:
        raise UsageError(
            f"{count} classes of dataset {dataset!r} but model {model!r} has {spec.num_classes}: --num-classes {count} "
            "gives it as many"
        )
    return spec


def check_precision(spec: ModelSpec, precision: Precision) -> None:
    """Raises UsageError for a precision in which not all of the model's arithmetic can be."""
    if precision == "fp64" and not spec.float64:
        raise UsageError(
            f"fp64 needs all operations in float64, and TensorFlow has one of model {spec.name!r} in float32 alone: "
            "use fp32, or another model"
        )


def _trained_classes(spec: ModelSpec, dataset: str, data_dir: Path | None, asked: str | None) -> tuple[int, ...] | None:
    """The classes of a data set that are trained; None are all."""
    data, count = SETS[dataset], SETS[dataset].classes(data_dir)
    if asked is None and data.made_up and count > spec.num_classes:
        return tuple(range(spec.num_classes))
    return chosen_classes(asked, dataset, count)


def build_model(spec: ModelSpec, seed: int, precision: str = "fp32", *, dropout: bool = True) -> Any:
    """The Keras model with the weights that `seed` gives, its layers computing in `precision`. Loads Keras."""
    import keras

    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(_DTYPE_POLICIES[precision])
    model = _build(spec)
    if not dropout:
        _leave_out_dropout(model)
    return model


def outline(spec: ModelSpec, precision: str = "fp32") -> Any:
    """The Keras model whose weights have shapes and no values, for counting in little time and memory. Loads Keras, and
    makes it forget its settings: for processes that train nothing."""
    import keras

    keras.config.set_dtype_policy(_DTYPE_POLICIES[precision])
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


def _begin(built: Any, spec: ModelSpec, *, name: str, weights: Path | None, freeze: str | None) -> str | None:
    """Gives a model the weights of a file and freezes layers, as asked for; what a user should know of that."""
    note = None
    if weights is not None:
        note = load_weights(built, weights, name=name, head=spec.head, base_only=freeze == BASE)
    if freeze is not None:
        freeze_layers(built, freeze, name=name, head=spec.head)
        if weights is None:
            first = "first layer with weights" if freeze == "1" else f"first {freeze} layers with weights"
            what = BASE if freeze == BASE else first
            note = f"Weights: {what} frozen at random weights (--weights FILE loads trained ones)"
    return note


def _describe_input(data: Source, spec: ModelSpec) -> str:
    """One line: what the images are, and what the model makes of them."""
    of = "" if data.num_classes == spec.num_classes else f" of {spec.num_classes:,}"
    parts = [f"{data.num_samples:,} images", f"{data.num_classes:,}{of} classes", data.look()]
    return f"Input: {', '.join(filter(None, parts))} -> {describe_images([spec.input_shape])}"


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
    image_size: int | None = None,
    num_classes: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Workload:
    """The training that every strategy runs, with input for as many steps as `steps` says for the number of images.
    Loads TensorFlow.

    With the split `rest` the test images are held out, to be evaluated on. A `provable` one keeps which samples it
    trains, and leaves out dropout: replicas draw different numbers. `tell` gets what a user should know of the images
    and, when it is built, of the model. Raises UsageError for a data file that is missing, and EnvironmentFault for one
    that cannot be used; so does building the model for the file of weights.
    """
    from strategies.base import HeldOut, Workload

    spec = check(
        model,
        dataset,
        data_dir,
        image_size=image_size,
        num_classes=num_classes,
        classes=classes,
        num_train_samples=num_train_samples,
    )
    chosen = _trained_classes(spec, dataset, data_dir, classes)
    opened = partial(open_source, dataset, data_dir, spec.input_shape, seed, classes=chosen)
    data = opened(split, cache=cache, provable=provable, count=num_train_samples)
    check_batch(dataset, data_dir, data.num_samples, global_batch)
    tell(_describe_input(data, spec))
    num_steps = steps(data.num_samples)
    rate: Any = learning_rate
    if rate_warmup is not None:
        rate = rising(rate_warmup.first, learning_rate, rate_warmup.updates(data.num_samples))
    held_out = None
    if split == "rest":
        test = opened("test")
        held_out = HeldOut(
            num_samples=test.num_samples,
            held_bytes=test.held_bytes,
            batches=lambda shard: test.evaluation_batches(shard, batch=batch_per_device),
            steps=lambda shard: test.evaluation_steps(shard, batch=batch_per_device),
            fault=test.fault,
        )
    tell_once = lru_cache(tell)

    def build() -> Any:
        built = build_model(spec, seed, numerics.precision, dropout=not provable)
        if note := _begin(built, spec, name=model, weights=weights, freeze=freeze):
            tell_once(note)
        return built

    return Workload(
        build_model=build,
        build_copy=lambda: build_model(spec, seed, numerics.precision),
        build_optimizer=lambda: build_optimizer(optimizer, rate),
        build_input=lambda shard: data.batches(shard, batch=batch_per_device, steps=num_steps),
        data=data,
        global_batch=global_batch,
        numerics=numerics,
        provable=provable,
        forward=forward,
        held_out=held_out,
    )
