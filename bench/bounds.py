"""By when a rank must have got further: a bound for each phase and, while it trains, for each call of steps.

The rank sets it as it goes; its launcher keeps the time (`jobs.watchdog`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bench.config import MachineConfig
from bench.plan import Plan
from jobs.watchdog import Deadline

FIRST_CALL_S = 600.0
"""Bound on building the model and data, and on the first calls, while nobody knows how long steps take [s]."""

LOAD_S = 300.0
"""Bound on starting and loading the framework, at least: file systems can be slow [s]."""

LEAST_S, SLACK = 60.0, 20
"""Bound on a timed call: so many times the slowest warm-up steps, and at least so long [s]."""

_FIRST_SLACK = 10
"""How much longer than --step-timeout building and the first call, which compiles, may take."""

_SPARE_S = 3.0
"""Who can end in time by itself says more than its launcher could, which therefore waits so much longer [s]."""


def load_s(machine: MachineConfig) -> float:
    """Bound on the start of a rank, and on loading its framework [s]."""
    return max(LOAD_S, machine.rendezvous_timeout)


class Bounds:
    """Sets `deadline` as a rank goes through the phases of `plan`."""

    def __init__(self, plan: Plan, deadline: Deadline) -> None:
        machine = plan.config.machine
        self._deadline = deadline
        self._num_batches = plan.num_batches_per_iter
        # Only ranks that wait for each other in every step come to a barrier at about one time.
        self._together = plan.strategy.synchronous and not plan.forward
        self._first_step_s = self._slowest_step_s = 0.0
        self._asked_s = machine.step_timeout
        meet_s = machine.rendezvous_timeout + _SPARE_S
        first_s = _FIRST_SLACK * self._asked_s if self._asked_s else FIRST_CALL_S
        self._of_phase = {
            "import": load_s(machine),
            **dict.fromkeys(("rendezvous", "leave"), meet_s),
            **dict.fromkeys(("build", "trace"), first_s),
            "warmup": self._asked_s or first_s,
            "serve": math.inf,  # as long as the others train
            "finish": first_s if self._together else math.inf,
        }
        self._phase = "start"

    def enter(self, phase: str) -> None:
        """A phase begins."""
        self._phase = phase
        self._set(self._of_phase.get(phase) or self._step_s())

    def stepped(self, row: Mapping[str, Any]) -> None:
        """A call of steps has ended; `row` as `bench.measure.measure` hands it over."""
        if self._phase == "trace":
            self._first_step_s = row["duration_s"]
        elif row["warmup"]:
            self._slowest_step_s = max(self._slowest_step_s, row["duration_s"] / row["num_batches"])
        self._set(self._of_phase.get(self._phase) or self._step_s())

    def evaluate(self, num_batches: int) -> None:
        """An evaluation begins, of so many batches of each replica; the first traces and compiles. It lasts until a
        phase is entered."""
        least_s = self._of_phase["trace"]
        known_s = 0.0 if self._asked_s else SLACK * self._known_step_s * num_batches
        self._deadline.set("evaluation", max(least_s, known_s))

    def wait_for_others(self) -> None:
        """This rank has nothing to do until all others have come as far."""
        if not self._together:
            self._set(math.inf)

    def _step_s(self) -> float:
        return self._asked_s or max(LEAST_S, SLACK * self._known_step_s * self._num_batches)

    @property
    def _known_step_s(self) -> float:
        # The first step compiles, too: it counts where it is all that is known.
        return self._slowest_step_s or self._first_step_s

    def _set(self, bound_s: float) -> None:
        self._deadline.set(self._phase, bound_s)
