"""Faults of the training itself: it ends well, and has trained something else. Each call prepares the process whose
forks train; a training of one replica, as `single` is, stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from strategies.base import Shard, Workload

MIDDLE = 3
"""The step of the faults that happen once, counted from 0: of eight, with several before and after it."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row of the table."""

    name: str
    inject: Callable[[], None]
    strategies: tuple[str, ...] = ("mwms", "horovod")
    """Under which it is tried."""
    reason: str = "the weights are not single's"
    """Part of the reason that a verification must give."""


def _change_workloads(change: Callable[[Workload, Shard], Workload]) -> None:
    """Each process that is one of several replicas, or trains several, gets a changed workload."""
    from strategies.training import ReplicatedTrainer

    build = ReplicatedTrainer.__init__

    def changed(trainer: Any, distribution: Any, workload: Workload, shard: Shard, exchange: Any = None) -> None:
        build(trainer, distribution, change(workload, shard) if shard.total > 1 else workload, shard, exchange)

    ReplicatedTrainer.__init__ = changed  # type: ignore[assignment, method-assign]


def scale_gradients(factor: float) -> None:
    """Replica 1 exchanges its gradients times `factor`."""
    import tensorflow as tf

    from strategies import training

    one_pass_of = training._one_pass

    def scale(workload: Workload, shard: Shard) -> Workload:
        def scaled_of(*setup: Any) -> Any:
            one_pass = one_pass_of(*setup)

            def scaled(*batch: Any) -> Any:
                loss_sum, gradients = one_pass(*batch)
                # Under Horovod each process is replica 0 of its own, so its shard says which it is.
                replica = tf.maximum(shard.first, tf.distribute.get_replica_context().replica_id_in_sync_group)
                return loss_sum, [tf.where(replica == 1, gradient * factor, gradient) for gradient in gradients]

            return scaled

        training._one_pass = scaled_of  # type: ignore[assignment]
        return workload

    _change_workloads(scale)


def divide_by_the_local_batch() -> None:
    """The loss of each replica is divided by its own images, not by those of all replicas."""
    from strategies import training

    compile_steps = training.compile_steps

    def local(distribution: Any, *args: Any, images_of_update: int, **more: Any) -> Any:
        images = images_of_update // distribution.num_replicas_in_sync
        return compile_steps(distribution, *args, images_of_update=images, **more)

    training.compile_steps = local


def train_a_sample_twice() -> None:
    """The last replica trains another's image in place of its first, once, and keeps the number of the first."""
    import tensorflow as tf

    def change(workload: Workload, shard: Shard) -> Workload:
        def build_input(own: Shard) -> Any:
            place = MIDDLE * own.count + own.count - 1

            def repeat(index: Any, batch: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
                images, labels, samples = batch
                twice = [tf.where(index == place, tf.concat([x[1:2], x[1:]], 0), x) for x in (images, labels)]
                return twice[0], twice[1], samples

            return workload.build_input(own).enumerate().map(repeat)

        return replace(workload, build_input=build_input) if shard.first + shard.count == shard.total else workload

    _change_workloads(change)


def skip_an_update() -> None:
    """One update adds nothing to any weight, and is counted."""
    import tensorflow as tf

    def change(workload: Workload, _shard: Shard) -> Workload:
        def build_optimizer() -> Any:
            optimizer = workload.build_optimizer()
            apply = optimizer.apply

            def apply_but_one(gradients: list[Any], variables: Any) -> Any:
                others = tf.not_equal(tf.convert_to_tensor(optimizer.iterations), MIDDLE)
                return apply([gradient * tf.cast(others, gradient.dtype) for gradient in gradients], variables)

            optimizer.apply = apply_but_one
            return optimizer

        return replace(workload, build_optimizer=build_optimizer)

    _change_workloads(change)


def build_rank_1_from_another_seed() -> None:
    """Under Horovod the weights of rank 1 begin as another seed gives them, and rank 0 does not broadcast its own."""
    import bench.workloads
    from strategies.horovod import Horovod

    build_model, trainer_of = bench.workloads.build_model, Horovod.trainer

    def trainer(strategy: Any, workload: Workload) -> Any:
        rank = strategy.cluster.rank
        bench.workloads.build_model = lambda spec, seed, *how, **more: build_model(spec, seed + rank, *how, **more)
        strategy._hvd.broadcast_variables = lambda *_variables, **_root: None
        return trainer_of(strategy, workload)

    Horovod.trainer = trainer  # type: ignore[assignment, method-assign]


def share_the_first_shard() -> None:
    """Every process trains the first part of each global batch."""
    from strategies.base import Strategy

    def shard(strategy: Strategy) -> Shard:
        return Shard(first=0, count=strategy.local_replicas, total=strategy.cluster.size)

    Strategy.shard = shard  # type: ignore[assignment, method-assign]


def leave_out_the_exchange() -> None:
    """No process hears of the others' gradients."""
    from strategies.mwms import Independent, MultiWorkerMirrored
    from strategies.training import ReplicatedTrainer

    build = ReplicatedTrainer.__init__

    def alone(trainer: Any, distribution: Any, workload: Workload, shard: Shard, exchange: Any = None) -> None:
        own = exchange and replace(exchange, average=lambda gradients: gradients)
        build(trainer, distribution, workload, shard, own)

    ReplicatedTrainer.__init__ = alone  # type: ignore[assignment, method-assign]
    MultiWorkerMirrored.trainer = Independent.trainer  # type: ignore[assignment, method-assign]


FAULTS = (
    Fault(name="rank 1's gradients times 1.001", inject=partial(scale_gradients, 1.001)),
    Fault(name="rank 1's gradients times 1 + 1e-6", inject=partial(scale_gradients, 1 + 1e-6)),
    Fault(name="rank 1's gradients times 1 + 1e-9", inject=partial(scale_gradients, 1 + 1e-9)),
    Fault(
        name="loss divided by the local batch",
        inject=divide_by_the_local_batch,
        strategies=("mirrored", "mwms", "central"),
    ),
    Fault(name="one sample trained twice, its number unchanged", inject=train_a_sample_twice),
    Fault(name="one update skipped", inject=skip_an_update, strategies=("mirrored", "mwms", "central", "horovod")),
    Fault(
        name="rank 1 built from another seed, no broadcast",
        inject=build_rank_1_from_another_seed,
        strategies=("horovod",),
        reason="were not averaged",
    ),
    Fault(
        name="every process trains the first shard",
        inject=share_the_first_shard,
        reason="other samples than the global batches were trained",
    ),
    Fault(name="no exchange of gradients", inject=leave_out_the_exchange, reason="were not averaged"),
)
"""What a verification must see. `ps`, which promises other things, has a test of its own."""
