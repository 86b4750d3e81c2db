"""Are two trainings the same? Pure: what ranks have kept goes in, a finding comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.evidence import Weights, distance


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far rounding may take a training from single's."""

    loss: float
    """Relative, of every step's loss."""
    weights: float
    """Of all final weights: norm of their difference / norm of what training changed in them."""
    unapplied: float
    """Of an asynchronous strategy: largest difference between a weight's change and the sum of its gradients,
    projected, / the sum of their sizes."""


LIMITS = {
    # Some thousand times what was seen: 2.2e-16, 2.8e-15 and 7.0e-15 (docs/proof.md).
    "fp64": Limits(loss=1e-12, weights=1e-11, unapplied=1e-11),
    # Losses were seen within 1e-7 over ten steps. Rounding was seen to make 2e-6 of the weights' way and, where the
    # last bit of a value decides on which side of a ReLU's kink a unit stands, 4e-4; of the sizes of gradients 1e-5.
    # One gradient of a hundred that is lost makes 1e-2 of either.
    "fp32": Limits(loss=1e-5, weights=5e-3, unapplied=1e-3),
}
"""Precision of a comparison -> its limits."""

DTYPES = {"fp64": "float64", "fp32": "float32"}
"""Precision of a comparison -> what people call it."""

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
    weights: Weights = field(default=(), repr=False)
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

    def cells(self) -> tuple[str, str, str]:
        """Loss, weights and verdict, for people."""
        return _number(self.max_loss_difference), _number(self.weight_difference), self.verdict


def common_cells(findings: Sequence[Finding]) -> tuple[str, str, str]:
    """Steps, samples and replicas of one training that was compared in several precisions, for people."""
    return (
        next((str(finding.steps) for finding in findings if finding.steps is not None), "-"),
        _text([finding.samples_ok for finding in findings], "each once", "WRONG"),
        _text([finding.digests_ok for finding in findings], "identical", "DIFFER"),
    )


def compare(
    ranks: Sequence[Rank],
    reference: Finding | None,
    limits: Limits,
    *,
    asynchronous_workers: int | None,
    learning_rate: float,
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
        return _judged(replace(found, unapplied=unapplied), _broken_promises(found, unapplied, limits))
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
    return _judged(found, _differences(found, reference, limits))


def explain(findings: Mapping[str, Sequence[tuple[str, Finding]]]) -> Iterator[str]:
    """What a reader must know to read the table rightly. `findings`: precision -> strategies and their findings."""
    most = [f"{LIMITS[p].loss:g} and {LIMITS[p].weights:g} in {DTYPES[p]}" for p in findings]
    yield (
        "loss: largest relative difference from single's loss of the same step. weights: distance from single's / way "
        f"that training took them. At most {', '.join(most)}."
    )
    promised = {
        (name, DTYPES[precision]): [f for other, f in compared if other == name and f.steps and f.updates is None]
        for precision, compared in findings.items()
        for name, _ in compared
    }
    for name in dict.fromkeys(name for (name, _), each in promised.items() if each):
        each = {dtype: found for (other, dtype), found in promised.items() if other == name and found}
        worst = (f"{max(f.unapplied or 0.0 for f in found):.1e} in {dtype}" for dtype, found in each.items())
        falls = (f"{f.first_loss:.3f} -> {f.last_loss:.3f}" for f in next(iter(each.values())))
        yield (
            f"{name} is asynchronous: each gradient is applied as it arrives, to weights that others may have changed, "
            "so its losses cannot equal single's and are not compared. It is checked for what it promises: the weights "
            f"are the sum of all gradients (off by at most {', '.join(worst)} of their sizes) and the loss falls "
            f"({', '.join(falls)})."
        )


def _weights(rank: Rank) -> Weights:
    return [rank[f"weights_{index}"] for index in range(sum(name.startswith("weights_") for name in rank))]


def _in_turn(samples: npt.NDArray[np.int32], num_samples: int) -> bool:
    """After each step no sample has been trained more often than whole passes over all of them need."""
    trained = (samples[: step + 1] for step in range(len(samples)))
    return all(np.unique(each, return_counts=True)[1].max() <= -(-each.size // num_samples) for each in trained)


def _judged(finding: Finding, problems: list[str]) -> Finding:
    return replace(finding, verdict="failed", reason="; ".join(problems)) if problems else finding


def _broken_promises(found: Finding, unapplied: float, limits: Limits) -> list[str]:
    problems = []
    if not unapplied <= limits.unapplied:
        problems.append(f"the weights are not the sum of all gradients (off by {unapplied:.1e} of their sizes)")
    assert found.first_loss is not None
    assert found.last_loss is not None
    if not found.last_loss < found.first_loss:
        problems.append(f"the loss does not fall ({found.first_loss:.4g} -> {found.last_loss:.4g})")
    return problems


def _wrong(found: Finding, each_once: bool) -> list[str]:
    problems = [] if each_once else ["a sample was trained again before all others were"]
    return problems if found.updates == found.steps else [*problems, f"{found.updates} updates in {found.steps} steps"]


def _differences(found: Finding, reference: Finding, limits: Limits) -> list[str]:
    problems = []
    if not found.samples_ok:
        problems.append("other samples than the global batches were trained")
    if not _at_most(found.max_loss_difference, limits.loss):
        problems.append("the losses are not single's")
    if not _at_most(found.weight_difference, limits.weights):
        problems.append("the weights are not single's")
    if found.updates != reference.updates:
        problems.append(f"the weights were changed {found.updates} times, single's {reference.updates}")
    return problems


def _at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit  # nan is not


def _loss_difference(losses: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> float | None:
    return float(np.max(np.abs(losses / wanted - 1))) if losses.shape == wanted.shape else None


def _weight_differences(weights: Weights, reference: Finding) -> tuple[float, float] | tuple[None, None]:
    """max_weight_difference and weight_difference of a finding; None for weights of other shapes."""
    if [weight.shape for weight in weights] != [weight.shape for weight in reference.weights]:
        return None, None
    pairs = zip(weights, reference.weights, strict=True)
    # A tensor that is still all zero, such as a bias before its first gradient, is compared absolutely.
    largest = max(float(np.max(np.abs(mine - its)) / (np.max(np.abs(its)) or 1.0)) for mine, its in pairs)
    return largest, distance(weights, reference.weights) / (reference.moved or 1.0)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _text(checks: Sequence[bool | None], passed: str, failed: str) -> str:
    known = [check for check in checks if check is not None]
    return "-" if not known else passed if all(known) else failed
