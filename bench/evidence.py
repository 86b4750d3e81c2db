"""What proves a training: every loss, every sample and the final weights of a rank, kept for `bench.verify`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strategies.base import Steps


def digest(weights: Sequence[npt.NDArray[np.float32]]) -> str:
    """SHA-256 of weights in the model's order."""
    found = hashlib.sha256()
    for weight in weights:
        found.update(np.ascontiguousarray(weight).data)
    return found.hexdigest()


@dataclass
class Evidence:
    """One rank's. Steps are in the order in which they were read."""

    losses: list[npt.NDArray[np.float32]] = field(default_factory=list)
    samples: list[npt.NDArray[np.int32]] = field(default_factory=list)

    def add(self, steps: Steps) -> None:
        assert steps.samples is not None, "the workload does not keep its samples"
        self.losses.append(np.asarray(steps.loss))
        self.samples.append(np.asarray(steps.samples))

    def save(self, folder: Path, rank: int, *, updates: int, weights: Sequence[npt.NDArray[np.float32]]) -> None:
        """Writes losses [steps], samples [steps, images], updates [] and weights_0, weights_1, ... of one replica."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f"weights_{index}": weight for index, weight in enumerate(weights)}
        np.savez(
            folder / f"rank-{rank:05d}.npz",
            losses=np.concatenate(self.losses),
            samples=np.concatenate(self.samples),
            updates=updates,
            **arrays,
        )
