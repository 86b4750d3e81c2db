"""The compiled step itself, in this process: what precision, XLA and the forward phase do to it, under each strategy
that one process can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from strategies import load
from strategies.base import NumericsConfig, Shard
from tests.frameworks.trainers import STRATEGIES, functions_of, job, nodes_of
from tests.frameworks.trainers import trainer as trainer_of

BF16, FP16, FP64 = 14, 19, 2
"""DT_BFLOAT16, DT_HALF and DT_DOUBLE."""


def trainer(model: str = "mnist_cnn", strategy: str = "single", *, forward: bool = False, **numerics: Any) -> Any:
    return trainer_of(strategy, job(strategy, model, numerics=NumericsConfig(**numerics), forward=forward))


def losses(one: Any, steps: int = 4) -> np.ndarray:
    (performed,) = one.run(steps)()
    return np.asarray(performed.loss)


FP32 = losses(trainer())


def test_the_clock_of_computing_waits_for_every_gradient_and_nothing_waits_for_it() -> None:
    (body,) = [f for f in functions_of(trainer()) if any(node.op == "Conv2DBackpropFilter" for node in f.node_def)]
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
    marks = [f for f in functions_of(compiled) if f.attr["_XlaMustCompile"].b]
    assert marks
    assert not [f for f in functions_of(trainer(model)) if f.attr["_XlaMustCompile"].b]
    if model == "mnist_cnn":  # the other has dropout, which draws other numbers
        assert np.allclose(found, FP32, rtol=1e-5)


def convolutions_of(one: Any) -> set[int]:
    """The types in which the traced step convolves, forward and backward."""
    return {node.attr["T"].type for node in nodes_of(one) if node.op.startswith("Conv2D")}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_precision_takes_effect_under_each_strategy(strategy: str) -> None:
    assert convolutions_of(trainer(strategy=strategy, precision="fp16")) == {FP16}
    assert convolutions_of(trainer(strategy=strategy, precision="bf16")) == {BF16}
    assert convolutions_of(trainer(strategy=strategy, precision="bf16", forward=True)) == {BF16}


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if load(name).no_xla is None])
def test_xla_takes_effect_under_each_strategy_that_does_not_refuse_it(strategy: str, forward: bool) -> None:
    """The compiled function holds all convolutions: none is left to the executor."""
    functions = functions_of(trainer(strategy=strategy, forward=forward, xla=True))
    holding = [f for f in functions if any(node.op.startswith("Conv2D") for node in f.node_def)]
    assert holding
    assert all(f.attr["_XlaMustCompile"].b for f in holding)


@pytest.mark.parametrize(("precision", "kind", "digits"), [("bf16", BF16, 1e-2), ("fp16", FP16, 1e-3)])
def test_layers_compute_in_the_precision_and_weights_stay_float32(precision: str, kind: int, digits: float) -> None:
    mixed = trainer(precision=precision)
    found = losses(mixed)
    assert convolutions_of(mixed) == {kind}
    assert {weight.dtype for weight in mixed.weights(0)} == {np.dtype(np.float32)}
    assert np.allclose(found, FP32, rtol=digits)
    assert (found != FP32).any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_float64_is_float64_from_the_layers_to_the_losses(strategy: str) -> None:
    work = job(strategy, numerics=NumericsConfig(precision="fp64"), provable=True)
    wide = trainer_of(strategy, work)
    (steps,) = wide.run(4)()
    assert convolutions_of(wide) == {FP64}
    assert steps.projections is not None
    assert {weight.dtype for weight in (*wide.weights(0), steps.loss, steps.projections)} == {np.dtype(np.float64)}
    assert np.allclose(steps.loss, steps.loss.astype(np.float32), rtol=1e-6)
    assert (steps.loss != steps.loss.astype(np.float32)).any(), "rounded to float32"


def test_the_last_precision_is_forgotten() -> None:
    losses(trainer(precision="bf16"))
    assert (losses(trainer()) == FP32).all()


@pytest.mark.parametrize(("strategy", "optimizer"), [("single", "sgd"), ("mirrored", "momentum"), ("central", "adamw")])
def test_an_overflow_is_a_step_of_nothing_and_halves_the_scale(strategy: str, optimizer: str) -> None:
    """Also of an optimizer that moves weights without a gradient, out of momentum or by decay."""
    import tensorflow as tf

    scaled = trainer_of(strategy, job(strategy, numerics=NumericsConfig(precision="fp16"), optimizer=optimizer))
    losses(scaled, 2)
    variables = scaled._steps.get_concrete_function(scaled._iterator, tf.TensorSpec([], tf.int32)).variables
    (scale,) = [v for v in variables if v.shape == [] and v.dtype == tf.float32 and v.numpy() == 2.0**15]
    before, updates = scaled.weights(0), scaled.updates()
    scale.assign(2.0**40)  # more than float16 can hold
    overflowed = losses(scaled, 3)
    assert np.isfinite(overflowed).all()
    assert all((old == new).all() for old, new in zip(before, scaled.weights(0), strict=True))
    assert (scale.numpy(), scaled.updates()) == (2.0**37, updates)
    scale.assign(2.0**10)
    losses(scaled, 3)
    assert (scale.numpy(), scaled.updates()) == (2.0**10, updates + 3)
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


def inferred(model: str, steps: int = 4) -> np.ndarray:
    """[steps]: mean cross-entropy of the first batches, of what the model infers outside of any trainer."""
    work = job(model=model)
    network, found = work.build_model(), []
    for images, labels, _ in work.build_input(Shard(first=0, count=1, total=1)).take(steps):
        logits = np.asarray(network(images, training=False), np.float64)
        own = np.take_along_axis(logits, np.asarray(labels)[:, None], 1)[:, 0]
        found.append(np.mean(np.log(np.exp(logits).sum(1)) - own))
    return np.array(found)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_forward_phase_infers_and_changes_nothing(strategy: str) -> None:
    one = trainer("cifar_cnn", strategy, forward=True)
    before = one.weights(0)
    found = losses(one)
    assert all((old == new).all() for old, new in zip(before, one.weights(0), strict=True))
    assert (one.updates(), one.slot_bytes(), one.all_reduce()) == (0, 0, None)
    assert np.allclose(found, inferred("cifar_cnn"), rtol=1e-5)
    kinds = {node.op for node in nodes_of(one)}
    assert "Conv2D" in kinds
    assert not {kind for kind in kinds for no in ("Backprop", "Random", "Collective", "Assign") if no in kind}


def test_a_forward_step_holds_no_random_numbers_where_a_training_step_does() -> None:
    assert any("Random" in node.op for node in nodes_of(trainer("cifar_cnn")))
