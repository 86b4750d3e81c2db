"""Training by epochs: where they end, what an evaluation counts, when a training has converged, and at which rate it
learns. Pure: loads no framework.

docs/convergence.md defines every figure and says where it differs from MLPerf Training and DAWNBench.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from bench.errors import UsageError
from strategies.base import Evaluation

SCALING_BATCH = 64
"""Images of an update for which --lr is meant under --lr-scaling linear."""


def epoch_ends(num_samples: int, global_batch: int, epochs: int) -> tuple[int, ...]:
    """The step with which each epoch ends, counted from 1: ceil(e x num_samples / global_batch) for epoch e.

    Batches do not stop at the end of the data set, so an epoch ends with the first step after which every sample has
    been trained as often as there were epochs; nearly so where processes share files unequally (docs/data.md). Raises
    UsageError where a step takes more than an epoch.
    """
    if global_batch > num_samples:
        raise UsageError(
            f"--epochs counts passes over {num_samples} images, but one step takes {global_batch}: use a smaller batch"
        )
    return tuple(-(-epoch * num_samples // global_batch) for epoch in range(1, epochs + 1))


def total(parts: Iterable[Evaluation]) -> Evaluation:
    """The evaluation of all processes, of what each of them has counted."""
    counted = [*parts]
    return Evaluation(
        num_correct=sum(part.num_correct for part in counted),
        num_samples=sum(part.num_samples for part in counted),
        loss_sum=sum(part.loss_sum for part in counted),
    )


def packed(part: Evaluation) -> bytes:
    """For another process; floats keep all their digits, so that all processes come to the same sums."""
    return json.dumps(asdict(part)).encode()


def unpacked(text: bytes) -> Evaluation:
    """What `packed` has made."""
    return Evaluation(**json.loads(text))


def reached(evaluation: Evaluation, target: float | None) -> bool:
    """Whether a training that was to reach the target may stop."""
    return target is not None and evaluation.accuracy >= target


def scaled_rate(rate: float, scaling: str, images_of_update: int) -> float:
    """The learning rate of updates with the mean gradient of so many images: under linear scaling `rate` is meant for
    SCALING_BATCH of them (Goyal et al. 2017, "Accurate, Large Minibatch SGD"), else for as many as there are."""
    return rate * images_of_update / SCALING_BATCH if scaling == "linear" else rate


@dataclass(frozen=True, kw_only=True)
class RateWarmup:
    """Over its first epochs a training's rate rises in a straight line from `first`, as Goyal et al. have it."""

    first: float
    epochs: int
    images_of_update: int

    def updates(self, num_samples: int) -> int:
        """Updates before the first one at the final rate, of a data set of so many images."""
        return -(-self.epochs * num_samples // self.images_of_update)
