"""What proves a training: every loss, every sample and the final weights of a rank, kept for `bench.verify`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from results.writing import replacing
from strategies.base import Steps

Weights = Sequence[npt.NDArray[np.floating[Any]]]
"""In the model's order, of the type in which they are trained: float32 or float64."""


def digest(weights: Weights) -> str:
    """SHA-256 of weights."""
    found = hashlib.sha256()
    for weight in weights:
        found.update(np.ascontiguousarray(weight).data)
    return found.hexdigest()


def project(weights: Weights) -> npt.NDArray[np.float64]:
    """[weights]: of each the sum of its elements w_i x cos(i mod 1000), as `strategies.base.Steps` has of gradients."""
    flat = [np.asarray(weight, np.float64).reshape(-1) for weight in weights]
    return np.array([part @ np.cos(np.arange(part.size) % 1000) for part in flat])


def distance(one: Weights, other: Weights) -> float:
    """Norm of the difference of two sets of weights of the same shapes, over all of them."""
    pairs = zip(one, other, strict=True)
    return float(np.linalg.norm([np.linalg.norm(np.subtract(a, b, dtype=np.float64)) for a, b in pairs]))


@dataclass
class Evidence:
    """One rank's. Steps are in the order in which they were read."""

    before: Weights
    """The initial weights."""
    losses: list[npt.NDArray[np.floating[Any]]] = field(default_factory=list)
    samples: list[npt.NDArray[np.int32]] = field(default_factory=list)
    projections: list[npt.NDArray[np.floating[Any]]] = field(default_factory=list)

    def add(self, steps: Steps) -> None:
        assert steps.samples is not None, "the workload is not provable"
        assert steps.projections is not None, "the workload is not provable"
        self.losses.append(np.asarray(steps.loss))
        self.samples.append(np.asarray(steps.samples))
        self.projections.append(np.asarray(steps.projections))

    @staticmethod
    def load(folder: Path) -> list[Mapping[str, npt.NDArray[Any]]]:
        """What every rank that trained has saved there, in rank order."""
        return [np.load(path, allow_pickle=False) for path in sorted(folder.glob("rank-*.npz"))]

    def save(self, folder: Path, rank: int, *, num_samples: int, updates: int, weights: Weights) -> None:
        """Writes losses [steps], samples [steps, images], num_samples [] that there are, updates [], weights_0,
        weights_1, ... of one replica, moved [], the norm of all that training changed in them, and projected [weights]:
        changes of the weights, the sum of all gradients and the sum of their sizes."""
        folder.mkdir(parents=True, exist_ok=True)
        changes = [np.subtract(*pair, dtype=np.float64) for pair in zip(weights, self.before, strict=True)]
        arrays: dict[str, Any] = {f"weights_{index}": weight for index, weight in enumerate(weights)}
        with replacing(folder / f"rank-{rank:05d}.npz") as new:
            np.savez(
                new,
                losses=np.concatenate(self.losses),
                samples=np.concatenate(self.samples),
                num_samples=num_samples,
                updates=updates,
                moved=distance(weights, self.before),
                changes=project(changes),
                gradients=np.concatenate(self.projections).sum(axis=0, dtype=np.float64),
                gradient_sizes=np.abs(np.concatenate(self.projections)).sum(axis=0, dtype=np.float64),
                **arrays,
            )
