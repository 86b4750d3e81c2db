"""The one timed loop. Pure: trainer and clock are given, so tests drive it with fakes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from bench.errors import UsageError, WorkloadError
from strategies.base import Steps, WorkerClock

_DRIFT, _READING_S = 0.001, 0.01
"""How far two clocks of a host that nobody sets come apart: a part of the time that passes, at most twice what NTP may
slew them by; and what reading them at two moments makes [s]."""


_JUMP_S = 1.0
"""A clock that goes by this much more or less than ours between two turns was set [s]."""


class NanosecondClock(Protocol):
    """See `bench.clock.Clock`."""

    def now_ns(self) -> int:
        """ns since 1970."""


class Steppable(Protocol):
    """The part of `strategies.base.Trainer` that is timed."""

    lookahead: int
    """Calls that may be under way when the next is made."""

    def run(self, num_batches: int) -> Callable[[], Sequence[Steps]]:
        """Starts steps."""

    def synchronise(self) -> None:
        """Waits for the devices."""


@dataclass(frozen=True)
class PlannedCall:
    """One call of a schedule."""

    num_batches: int
    warmup: bool = False
    epoch: int | None = None
    """The epoch that ends with it, counted from 1."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which calls are made: one step that traces, the other warm-up steps, then the timed iterations."""

    num_warmup_batches: int
    num_batches_per_iter: int
    num_iters: int
    epoch_ends: tuple[int, ...] = ()
    """The step with which each epoch ends, counted from 1, warm-up included: it is the last of its call. Empty where
    epochs do not count."""

    @classmethod
    def of_epochs(cls, num_warmup_batches: int, num_batches_per_iter: int, ends: Sequence[int]) -> Schedule:
        """A training to the end of the last epoch; warm-up is part of the first. Raises UsageError where it is all of
        it."""
        if num_warmup_batches >= ends[0]:
            raise UsageError(
                f"--num-warmup-batches {num_warmup_batches} leaves no timed step of the first epoch, which has "
                f"{ends[0]}: ask for fewer, or for a smaller batch"
            )
        stretches = np.diff([num_warmup_batches, *ends])
        num_iters = int(np.ceil(stretches / num_batches_per_iter).sum())
        return cls(
            num_warmup_batches=num_warmup_batches,
            num_batches_per_iter=num_batches_per_iter,
            num_iters=num_iters,
            epoch_ends=tuple(ends),
        )

    @property
    def num_batches(self) -> int:
        """Steps of the whole run."""
        if self.epoch_ends:
            return self.epoch_ends[-1]
        return self.num_warmup_batches + self.num_iters * self.num_batches_per_iter

    def calls(self) -> Iterator[PlannedCall]:
        """All of them, in order."""
        yield PlannedCall(1, warmup=True)
        for steps in self._parts(self.num_warmup_batches - 1):
            yield PlannedCall(steps, warmup=True)
        done = self.num_warmup_batches
        for epoch, end in enumerate(self.epoch_ends or (self.num_batches,), start=1):
            parts = self._parts(end - done)
            for steps in parts[:-1]:
                yield PlannedCall(steps)
            yield PlannedCall(parts[-1], epoch=epoch if self.epoch_ends else None)
            done = end

    def _parts(self, steps: int) -> list[int]:
        whole, rest = divmod(steps, self.num_batches_per_iter)
        return [self.num_batches_per_iter] * whole + [rest] * (rest > 0)


def measure(
    trainer: Steppable,
    schedule: Schedule,
    clock: NanosecondClock,
    *,
    on_traced: Callable[[], None],
    on_warm: Callable[[], None],
    on_iter: Callable[[dict[str, Any], Steps], None],
    on_epoch: Callable[[int, float], bool],
) -> None:
    """Runs the schedule and hands every iteration to `on_iter`: a row of `iters` without run, and the steps themselves.

    The row of steps that another process performed names its rank and carries that rank's times; every call then makes
    as many iterations as there are such processes. `on_traced` is called after the first step, `on_warm` right before
    the first timed iteration. `on_epoch` is called when all steps of an epoch have been performed and no call is under
    way, with the epoch and the training time so far, which is that in which calls were under way, but for the first
    call, which traces and compiles [s]; it says whether to stop. Raises WorkloadError for a loss that is not finite,
    after that iteration was handed over, and for an iteration that a clock has timed that was set meanwhile.
    """
    calls = _Calls(trainer, clock, on_iter)
    was_warmup = True
    for index, call in enumerate(schedule.calls()):
        if was_warmup and not call.warmup:
            calls.finish()
            on_warm()
        was_warmup = call.warmup
        calls.begin(index, call.num_batches, call.warmup)
        calls.finish(leave=trainer.lookahead if index and call.epoch is None else 0)
        if index == 0:
            on_traced()
        if call.epoch is not None and on_epoch(call.epoch, calls.trained_s):
            return
    calls.finish()


@dataclass(frozen=True)
class _Call:
    index: int
    num_batches: int
    warmup: bool
    start_ns: int
    read: Callable[[], Sequence[Steps]]


class _Calls:
    """The calls under way, oldest first."""

    def __init__(
        self, trainer: Steppable, clock: NanosecondClock, on_iter: Callable[[dict[str, Any], Steps], None]
    ) -> None:
        self._trainer = trainer
        self._clock = clock
        self._on_iter = on_iter
        self._worker_clocks = _WorkerClocks()
        self._under_way: deque[_Call] = deque()
        self._busy_ns = 0
        """Since when calls have been under way without a break."""
        self.trained_s = 0.0
        """In which calls were under way, but for the first."""

    def begin(self, index: int, num_batches: int, warmup: bool) -> None:
        start_ns = self._clock.now_ns()
        if not self._under_way:
            self._busy_ns = start_ns
        self._under_way.append(_Call(index, num_batches, warmup, start_ns, self._trainer.run(num_batches)))

    def finish(self, leave: int = 0) -> None:
        """Waits for the oldest and hands their iterations on, until only `leave` are under way."""
        while len(self._under_way) > leave:
            call = self._under_way.popleft()
            # The call returned when the work was queued; only now is it done, so only now may the clock be read.
            self._trainer.synchronise()
            ended_ns = self._clock.now_ns()
            duration_s = (ended_ns - call.start_ns) / 1e9
            parts = call.read()
            if any(steps.worker for steps in parts):
                ended_ns = self._clock.now_ns()  # what others perform is over when it has been read
            if call.index and not self._under_way:
                self.trained_s += (ended_ns - self._busy_ns) / 1e9
            for part, steps in enumerate(parts):
                iteration = call.index * len(parts) + part
                self._on_iter(self._row(call, iteration, duration_s, steps), steps)
                _check_loss(steps, iteration)

    def _since(self, call: _Call) -> float:
        return (self._clock.now_ns() - call.start_ns) / 1e9

    def _row(self, call: _Call, iteration: int, duration_s: float, steps: Steps) -> dict[str, Any]:
        performed_s = steps.worker.duration_s if steps.worker else duration_s
        row = {
            "iter": iteration,
            "warmup": call.warmup,
            "num_batches": call.num_batches,
            "t_start_ns": call.start_ns,
            "duration_s": duration_s,
            "data_wait_s": _within(performed_s, steps.data_wait_s),
            "compute_s": _within(performed_s, steps.compute_s),
            "loss": float(steps.loss.mean()),
        }
        if steps.worker is None:
            return row
        if self._worker_clocks.was_set(steps.worker, call.start_ns, self._since(call)):
            raise WorkloadError(
                f"the clock of rank {steps.worker.rank}'s host was set before or during iteration {iteration}, so its "
                "times mean nothing: let the host keep its time (NTP), and run again"
            )
        return row | asdict(steps.worker)


class _WorkerClocks:
    """Whether the clocks by which other processes time their turns go as ours does."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, float]] = {}

    def was_set(self, worker: WorkerClock, call_start_ns: int, passed_s: float) -> bool:
        """`passed_s`: from the call to the arrival of its result, by our clock."""
        ahead_s = (worker.t_start_ns - call_start_ns) / 1e9
        before_s, waited_s = self._last.get(worker.rank, (ahead_s, 0.0))
        self._last[worker.rank] = ahead_s, passed_s
        # Each turn began at some moment of the time that passed.
        jumped = abs(ahead_s - before_s) > max(passed_s, waited_s) + _JUMP_S
        return jumped or _within(passed_s, worker.duration_s) is None


def _within(duration_s: float, part_s: float) -> float | None:
    """A part of that duration that a compiled step has measured, by a clock that can be set: None if that was done."""
    return part_s if 0 <= part_s <= duration_s * (1 + _DRIFT) + _READING_S else None


def _check_loss(steps: Steps, iteration: int) -> None:
    if not np.isfinite(steps.loss).all():
        first = int(np.flatnonzero(~np.isfinite(steps.loss))[0])
        raise WorkloadError(
            f"loss is {steps.loss[first]} in step {first + 1} of iteration {iteration}, so its speed means "
            "nothing: look at the data, the batch size, --lr and --precision"
        )
