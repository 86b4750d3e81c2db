"""What a rank does when an epoch has ended: evaluate its part, add up all ranks', write it down, and decide whether to
stop as every other rank does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench import output
from bench.bounds import Bounds
from bench.convergence import packed, reached, total, unpacked
from bench.errors import WorkloadError
from bench.measure import NanosecondClock, Schedule
from bench.plan import Plan
from bench.ranklog import RankLog
from strategies.base import Trainer


class Evaluations:
    """Those of one rank of a run by epochs."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        *,
        num_samples: int,
        exchange: Callable[[bytes], list[bytes]],
        log: RankLog,
        bounds: Bounds,
        clock: NanosecondClock,
        run_id: str | None,
    ) -> None:
        self._plan = plan
        self._schedule = schedule
        self._num_samples = num_samples
        self._exchange = exchange
        self._log = log
        self._bounds = bounds
        self._clock = clock
        self._run_id = run_id
        self._iter = 0

    def stepped(self, row: dict[str, Any]) -> None:
        """An iteration has ended."""
        self._iter = row["iter"]

    def perform(self, trainer: Trainer, epoch: int, train_s: float) -> bool:
        """Evaluates after an epoch; all ranks call it at the same time. Returns whether to stop training.

        Raises WorkloadError where not every test image was counted once.
        """
        self._bounds.evaluate(-(-self._num_samples // self._plan.global_batch))
        began_ns = self._clock.now_ns()
        mine = trainer.evaluate()
        # Who trains nothing itself drives the others, and has evaluated all.
        parts = self._exchange(packed(mine)) if self._plan.strategy.local_replicas else [packed(mine)]
        found = total(map(unpacked, parts))
        eval_s = (self._clock.now_ns() - began_ns) / 1e9
        if found.num_samples != self._num_samples:
            raise WorkloadError(
                f"the evaluation after epoch {epoch} counted {found.num_samples} test images of {self._num_samples}: "
                "look whether the data changed since the run began"
            )
        steps = self._schedule.epoch_ends[epoch - 1]
        row = {
            "epoch": epoch,
            "iter": self._iter,
            "steps": steps,
            "images": steps * self._plan.global_batch,
            "t_ns": began_ns,
            "train_s": train_s,
            "eval_s": eval_s,
            "num_correct": found.num_correct,
            "num_samples": found.num_samples,
            "accuracy": found.accuracy,
            "loss": found.loss,
        }
        target = self._plan.config.training.target_accuracy
        done = reached(found, target)
        if self._plan.strategy.cluster.rank == 0:
            self._log.shard.add_eval(row)
            output.print_eval(row, self._run_id)
            self._conclude(train_s if done else None, last=epoch == len(self._schedule.epoch_ends))
        self._bounds.enter(self._log.phase)
        return done

    def _conclude(self, time_to_accuracy_s: float | None, *, last: bool) -> None:
        target = self._plan.config.training.target_accuracy
        if time_to_accuracy_s is not None:
            self._log.shard.update_run(time_to_accuracy_s=time_to_accuracy_s)
        elif last and target is not None:
            why = f"no evaluation reached {target:g}"
            self._log.shard.update_run(null_reasons={"time_to_accuracy_s": why})
