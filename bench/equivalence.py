"""Are two trainings the same? Pure: what ranks have kept goes in, a finding comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.evidence import distance

LOSS_TOLERANCE = 1e-5
"""Relative, of every step's loss. Two float32 runs of the same training were seen within 1e-7 over ten steps."""

WEIGHT_TOLERANCE = 5e-3
"""Of all final weights: norm of their difference / norm of what training changed in them. Rounding was seen to make
2e-6 of it and, where the last bit of a value decides on which side of a ReLU's kink a unit stands, 4e-4; one gradient
of a hundred that is lost makes 1e-2. What is less shows in the losses."""

Rank = Mapping[str, npt.NDArray[Any]]
"""What `bench.evidence` keeps of a rank."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came out of a comparison. Fields are None where they were not compared."""

    verdict: str
    """ok, failed or not run."""
    reason: str | None = None
    steps: int | None = None
    max_loss_difference: float | None = None
    max_weight_difference: float | None = None
    weight_difference: float | None = None
    samples_ok: bool | None = None
    digests_ok: bool | None = None
    updates: int | None = None
    unapplied: float | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    losses: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    """[steps]: of the global batches."""
    samples: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 0), np.int32), repr=False)
    """[steps, global batch], sorted within a step."""
    weights: Sequence[npt.NDArray[np.float32]] = field(default=(), repr=False)
    moved: float = field(default=0.0, repr=False)
    """Norm of what training changed in them."""

    def failed(self, reason: str, *, digests_ok: bool) -> Finding:
        """The same, known to have failed."""
        reasons = reason if self.reason is None else f"{self.reason}; {reason}"
        return replace(self, verdict="failed", reason=reasons, digests_ok=digests_ok)

    def as_row(self) -> dict[str, Any]:
        """The columns of `results.schema.VERIFICATIONS` that are found here."""
        hidden = ("losses", "samples", "weights", "moved")
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def cells(self) -> tuple[str, ...]:
        """steps, loss, weights, samples, replicas and verdict, for people."""
        return (
            _text(self.steps),
            _number(self.max_loss_difference),
            _number(self.weight_difference),
            {True: "each once", False: "WRONG", None: "-"}[self.samples_ok],
            {True: "identical", False: "DIFFER", None: "-"}[self.digests_ok],
            self.verdict if self.reason is None else f"{self.verdict}: {self.reason}",
        )


APPLIED_TOLERANCE = 1e-3
"""Of an asynchronous strategy: largest difference between a weight's change and the sum of its gradients, projected, /
the sum of their sizes. Rounding was seen to make 1e-5 of it; one gradient of a hundred that is lost makes 1e-2."""


def compare(
    ranks: Sequence[Rank], reference: Finding | None, *, asynchronous_workers: int | None, learning_rate: float
) -> Finding:
    """The finding on a run of plain SGD whose replicas' final weights were seen to agree.

    `reference` is None for the run that the others are compared with. `asynchronous_workers` is the number of workers
    of a strategy that promises no equality: it is asked whether all gradients were applied and the loss falls.
    """
    losses = np.stack([rank["losses"] for rank in ranks]).mean(axis=0, dtype=np.float64)
    samples = np.sort(np.concatenate([rank["samples"] for rank in ranks], axis=1), axis=1)
    quarter = max(1, len(losses) // 4)
    found = Finding(
        verdict="ok",
        steps=len(losses),
        updates=int(ranks[0]["updates"]),
        first_loss=float(losses[:quarter].mean()),
        last_loss=float(losses[-quarter:].mean()),
        losses=losses,
        samples=samples,
        weights=_weights(ranks[0]),
        moved=float(ranks[0]["moved"]),
    )
    if asynchronous_workers is not None:
        # Keras counts updates by reading and writing: workers that do so at once are counted as one. The weights
        # themselves are changed in one operation, and tell what was applied.
        found = replace(found, steps=len(losses) // asynchronous_workers, updates=None)
        missing = np.abs(ranks[0]["changes"] + learning_rate * ranks[0]["gradients"])
        unapplied = float(np.max(missing / (learning_rate * ranks[0]["gradient_sizes"])))
        return _judged(replace(found, unapplied=unapplied), _broken_promises(found, unapplied))
    if reference is None:
        each_once = _in_turn(samples, int(ranks[0]["num_samples"]))
        return _judged(replace(found, samples_ok=each_once, digests_ok=True), _wrong(found, each_once))
    largest, way = _weight_differences(found.weights, reference)
    found = replace(
        found,
        max_loss_difference=_loss_difference(losses, reference.losses),
        max_weight_difference=largest,
        weight_difference=way,
        samples_ok=samples.shape == reference.samples.shape and bool((samples == reference.samples).all()),
        digests_ok=True,
    )
    return _judged(found, _differences(found, reference))


def explain(found: Sequence[tuple[str, Finding]]) -> Iterator[str]:
    """What a reader must know to read the table rightly. `found`: strategies and their findings."""
    yield (
        f"max loss difference: relative, from single's loss of the same step; at most {LOSS_TOLERANCE:g}. weights: "
        f"distance from single's / way that training took them; at most {WEIGHT_TOLERANCE:g}."
    )
    promised = [(name, finding) for name, finding in found if finding.steps and finding.updates is None]
    for name in dict.fromkeys(name for name, _ in promised):
        falls = ", ".join(f"{f.first_loss:.3f} -> {f.last_loss:.3f}" for other, f in promised if other == name)
        worst = max(f.unapplied or 0.0 for other, f in promised if other == name)
        yield (
            f"{name} is asynchronous: each gradient is applied as it arrives, to weights that others may have changed, "
            "so its losses cannot equal single's and are not compared. It is checked for what it promises: the weights "
            f"are the sum of all gradients (off by at most {worst:.1e} of their sizes) and the loss falls ({falls})."
        )


def _weights(rank: Rank) -> list[npt.NDArray[np.float32]]:
    return [rank[f"weights_{index}"] for index in range(sum(name.startswith("weights_") for name in rank))]


def _in_turn(samples: npt.NDArray[np.int32], num_samples: int) -> bool:
    """After each step no sample has been trained more often than whole passes over all of them need."""
    trained = (samples[: step + 1] for step in range(len(samples)))
    return all(np.unique(each, return_counts=True)[1].max() <= -(-each.size // num_samples) for each in trained)


def _judged(finding: Finding, problems: list[str]) -> Finding:
    return replace(finding, verdict="failed", reason="; ".join(problems)) if problems else finding


def _broken_promises(found: Finding, unapplied: float) -> list[str]:
    problems = []
    if not unapplied <= APPLIED_TOLERANCE:
        problems.append(f"the weights are not the sum of all gradients (off by {unapplied:.1%} of their sizes)")
    assert found.first_loss is not None
    assert found.last_loss is not None
    if not found.last_loss < found.first_loss:
        problems.append(f"the loss does not fall ({found.first_loss:.4g} -> {found.last_loss:.4g})")
    return problems


def _wrong(found: Finding, each_once: bool) -> list[str]:
    problems = [] if each_once else ["a sample was trained again before all others were"]
    return problems if found.updates == found.steps else [*problems, f"{found.updates} updates in {found.steps} steps"]


def _differences(found: Finding, reference: Finding) -> list[str]:
    problems = []
    if not found.samples_ok:
        problems.append("other samples than the global batches were trained")
    if not _at_most(found.max_loss_difference, LOSS_TOLERANCE):
        problems.append("the losses are not single's")
    if not _at_most(found.weight_difference, WEIGHT_TOLERANCE):
        problems.append("the weights are not single's")
    if found.updates != reference.updates:
        problems.append(f"the weights were changed {found.updates} times, single's {reference.updates}")
    return problems


def _at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit  # nan is not


def _loss_difference(losses: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> float | None:
    return float(np.max(np.abs(losses / wanted - 1))) if losses.shape == wanted.shape else None


def _weight_differences(
    weights: Sequence[npt.NDArray[np.float32]], reference: Finding
) -> tuple[float, float] | tuple[None, None]:
    """max_weight_difference and weight_difference of a finding; None for weights of other shapes."""
    if [weight.shape for weight in weights] != [weight.shape for weight in reference.weights]:
        return None, None
    pairs = zip(weights, reference.weights, strict=True)
    # A tensor that is still all zero, such as a bias before its first gradient, is compared absolutely.
    largest = max(float(np.max(np.abs(mine - its)) / (np.max(np.abs(its)) or 1.0)) for mine, its in pairs)
    return largest, distance(weights, reference.weights) / (reference.moved or 1.0)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)
