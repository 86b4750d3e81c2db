"""What a rank says of itself, phase by phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.measure import NanosecondClock
from results.record import rank_shard
from results.store import Shard, Store

_UNTIMED = ("start", "serve", "finish", "leave")


class RankLog:
    """The fields of one row of `ranks`: kept here, and in the rank's shard as soon as the run's id is known."""

    def __init__(self, clock: NanosecondClock, started_ns: int, on_enter: Callable[[str], None]) -> None:
        self.fields: dict[str, Any] = {}
        self.phase = "start"
        self._clock = clock
        self._on_enter = on_enter
        self._start_ns = self._phase_ns = started_ns
        self._knows_start = True
        self._shard: Shard | None = None

    @property
    def shard(self) -> Shard:
        assert self._shard is not None, "the run's id is not agreed yet"
        return self._shard

    def open(self, store: Store, run_id: str, rank: int) -> None:
        if self._shard is None:
            self._shard = store.open_shard(run_id, rank_shard(rank))
            self._shard.update_rank(**self.fields)

    def note(self, **fields: Any) -> None:
        self.fields.update(fields)
        if self._shard is not None:
            self._shard.update_rank(**fields)

    def enter(self, phase: str) -> None:
        """Ends one phase and begins another; the ended phase's time is noted."""
        self._on_enter(phase)
        now = self._clock.now_ns()
        ended = {f"{self.phase}_s": (now - self._phase_ns) / 1e9} if self.phase not in _UNTIMED else {}
        if self.phase != "start":
            self._phase_ns = now
        self.phase = phase
        self.note(phase=phase, **ended)

    def forget_start(self) -> None:
        """The frameworks were loaded before this process was forked: it cannot tell how long a start takes."""
        self._knows_start = False
        self.note(import_s=None)

    def timing_begins(self) -> None:
        """Enters the timed phase and notes how long it took to get there."""
        self.enter("timed")
        self.note(startup_time_s=(self._phase_ns - self._start_ns) / 1e9 if self._knows_start else None)

    def end(self, **fields: Any) -> bool:
        """Notes the last words; False where they could not be kept, as on a disk that is full."""
        try:
            self.note(**fields)
            if self._shard is not None:
                self._shard.close()
        except OSError:
            return False
        return True
