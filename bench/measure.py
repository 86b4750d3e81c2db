"""The one timed loop. Pure: trainer and clock are given, so tests drive it with fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bench.errors import WorkloadError
from strategies.base import Steps


class NanosecondClock(Protocol):
    """See `bench.clock.Clock`."""

    def now_ns(self) -> int:
        """ns since 1970."""


class Steppable(Protocol):
    """The part of `strategies.base.Trainer` that is timed."""

    def run(self, num_batches: int) -> Callable[[], Steps]:
        """Starts optimizer steps."""

    def synchronise(self) -> None:
        """Waits for the devices."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which calls are made: one step that traces, the other warm-up steps, then the timed iterations."""

    num_warmup_batches: int
    num_batches_per_iter: int
    num_iters: int

    @property
    def num_batches(self) -> int:
        """Steps of the whole run."""
        return self.num_warmup_batches + self.num_iters * self.num_batches_per_iter

    def calls(self) -> Iterator[tuple[int, bool]]:
        """(steps in the call, is it warm-up)."""
        yield 1, True
        left = self.num_warmup_batches - 1
        while left > 0:
            yield min(left, self.num_batches_per_iter), True
            left -= self.num_batches_per_iter
        for _ in range(self.num_iters):
            yield self.num_batches_per_iter, False


def measure(
    trainer: Steppable,
    schedule: Schedule,
    clock: NanosecondClock,
    *,
    on_traced: Callable[[], None],
    on_warm: Callable[[], None],
    on_iter: Callable[[dict[str, Any]], None],
) -> None:
    """Runs the schedule and hands every iteration to `on_iter` as a row of `iters` without run and rank.

    `on_traced` is called after the first step, `on_warm` right before the first timed iteration.
    Raises WorkloadError for a loss that is not finite, after that iteration has been handed over.
    """
    was_warmup = True
    for index, (num_batches, warmup) in enumerate(schedule.calls()):
        if was_warmup and not warmup:
            on_warm()
        was_warmup = warmup
        start_ns = clock.now_ns()
        result = trainer.run(num_batches)
        # The call returns when the work is queued; only now is it done, so only now may the clock be read.
        trainer.synchronise()
        end_ns = clock.now_ns()
        steps = result()
        on_iter(
            {
                "iter": index,
                "warmup": warmup,
                "num_batches": num_batches,
                "t_start_ns": start_ns,
                "duration_s": (end_ns - start_ns) / 1e9,
                "data_wait_s": steps.data_wait_s,
                "loss": float(steps.loss.mean()),
            }
        )
        if not np.isfinite(steps.loss).all():
            first = int(np.flatnonzero(~np.isfinite(steps.loss))[0])
            raise WorkloadError(
                f"loss is {steps.loss[first]} in step {first + 1} of iteration {index}: the training diverged, so its "
                "speed means nothing; look at the data and the batch size"
            )
        if index == 0:
            on_traced()
