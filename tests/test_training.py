"""The compiled step itself, in this process: what precision and XLA do to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import frameworks
from bench.workloads import workload
from strategies.base import NumericsConfig, Shard

frameworks.load()


def trainer(model: str = "mnist_cnn", **numerics: Any) -> Any:
    import tensorflow as tf

    from strategies.training import ReplicatedTrainer

    job = workload(
        model=model,
        dataset="digits",
        data_dir=None,
        seed=1,
        batch_per_device=8,
        global_batch=8,
        steps=lambda _: 12,
        numerics=NumericsConfig(**numerics),
    )
    return ReplicatedTrainer(tf.distribute.get_strategy(), job, Shard(first=0, count=1, total=1))


def graph_of(one: Any) -> Any:
    import tensorflow as tf

    return one._steps.get_concrete_function(one._iterator, tf.TensorSpec([], tf.int32)).graph.as_graph_def()


def losses(one: Any, steps: int = 4) -> np.ndarray:
    (performed,) = one.run(steps)()
    return np.asarray(performed.loss)


FP32 = losses(trainer())


def test_the_clock_of_computing_waits_for_every_gradient_and_nothing_waits_for_it() -> None:
    library = graph_of(trainer()).library.function
    (body,) = [f for f in library if any(node.op == "Conv2DBackpropFilter" for node in f.node_def)]
    kinds = {node.name: node.op for node in body.node_def}
    sources = {node.name: {name.lstrip("^").partition(":")[0] for name in node.input} for node in body.node_def}

    def upstream(name: str) -> set[str]:
        found: set[str] = set()
        ahead = {name}
        while ahead:
            found |= ahead
            ahead = {source for each in ahead for source in sources.get(each, ())} - found
        return found

    updates = [name for name, kind in kinds.items() if kind.startswith("AssignSub")]
    clocks = {name for name, kind in kinds.items() if kind == "Timestamp"}
    (computed,) = clocks - set[str]().union(*map(upstream, updates))
    # Keras takes all gradients together before it changes a weight.
    (together,) = [name for name, kind in kinds.items() if kind == "IdentityN"]
    assert all(together in upstream(update) for update in updates)
    assert len(sources[together]) == len(updates) == 6
    assert sources[together] | clocks <= upstream(computed)


@pytest.mark.parametrize("model", ["mnist_cnn", "cifar_cnn"])
def test_xla_compiles_the_step_and_changes_no_result(model: str) -> None:
    compiled = trainer(model, xla=True)
    found = losses(compiled)
    marks = [f for f in graph_of(compiled).library.function if f.attr["_XlaMustCompile"].b]
    assert marks
    assert not [f for f in graph_of(trainer(model)).library.function if f.attr["_XlaMustCompile"].b]
    if model == "mnist_cnn":  # the other has dropout, which draws other numbers
        assert np.allclose(found, FP32, rtol=1e-5)


@pytest.mark.parametrize(("precision", "kind", "digits"), [("bf16", 14, 1e-2), ("fp16", 19, 1e-3)])
def test_layers_compute_in_the_precision_and_weights_stay_float32(precision: str, kind: int, digits: float) -> None:
    mixed = trainer(precision=precision)
    found = losses(mixed)
    convolutions = [
        node.attr["T"].type for f in graph_of(mixed).library.function for node in f.node_def if node.op == "Conv2D"
    ]
    assert convolutions
    assert set(convolutions) == {kind}  # DT_BFLOAT16 or DT_HALF
    assert {weight.dtype for weight in mixed.weights(0)} == {np.dtype(np.float32)}
    assert np.allclose(found, FP32, rtol=digits)
    assert (found != FP32).any()


def test_the_last_precision_is_forgotten() -> None:
    losses(trainer(precision="bf16"))
    assert (losses(trainer()) == FP32).all()


def test_an_overflow_is_a_step_of_nothing_and_halves_the_scale() -> None:
    import tensorflow as tf

    scaled = trainer(precision="fp16")
    variables = scaled._steps.get_concrete_function(scaled._iterator, tf.TensorSpec([], tf.int32)).variables
    (scale,) = [v for v in variables if v.shape == [] and v.dtype == tf.float32 and v.numpy() == 2.0**15]
    before = scaled.weights(0)
    scale.assign(2.0**40)  # more than float16 can hold
    overflowed = losses(scaled, 3)
    assert np.isfinite(overflowed).all()
    assert all((old == new).all() for old, new in zip(before, scaled.weights(0), strict=True))
    assert scale.numpy() == 2.0**37
    scale.assign(2.0**10)
    losses(scaled, 3)
    assert scale.numpy() == 2.0**10
    assert any((old != new).any() for old, new in zip(before, scaled.weights(0), strict=True))


def test_the_scale_grows_after_a_long_time_without_overflow() -> None:
    import tensorflow as tf

    from strategies.training import _next_scale

    def after(scale: float, since: int, overflows: float) -> tuple[float, int]:
        grown, steps = _next_scale(tf.constant(scale), tf.constant(since), tf.constant(overflows))
        return float(grown), int(steps)

    assert after(8.0, 1998, 0.0) == (8.0, 1999)
    assert after(8.0, 1999, 0.0) == (16.0, 0)
    assert after(8.0, 1999, 1.0) == (4.0, 0)
    assert after(1.0, 5, 2.0) == (1.0, 0)
