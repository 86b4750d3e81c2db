"""Every way in which a training can differ from the reference is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.equivalence import LIMITS, Finding, common_cells, compare, explain
from bench.evidence import Evidence
from bench.workloads.order import sample_order
from strategies.base import Steps

STEPS, BATCH, RATE = 8, 12, 0.01
SAMPLES = np.arange(STEPS * BATCH).reshape(STEPS, BATCH)
LOSSES = np.linspace(2.3, 2.0, STEPS)
WEIGHTS = {"weights_0": np.linspace(-0.5, 0.5, 20, dtype=np.float32), "weights_1": np.zeros(3, np.float32)}
MOVED = 0.02
"""Norm of what training changed in the weights."""
GRADIENTS = np.array([0.5, -0.25])


def rank(part: slice = slice(None), **changed: Any) -> dict[str, Any]:
    """What a rank keeps that trained `part` of every global batch."""
    kept = {
        "losses": LOSSES,
        "samples": SAMPLES[:, part],
        "num_samples": np.array(SAMPLES.size),
        "updates": np.array(STEPS),
        "moved": np.array(MOVED),
        "changes": -RATE * GRADIENTS,
        "gradients": GRADIENTS,
        "gradient_sizes": np.array([1.0, 0.5]),
    }
    return kept | WEIGHTS | changed


def alone(**changed: Any) -> Finding:
    """The finding on a reference."""
    return compare([rank(**changed)], None, LIMITS["fp32"], asynchronous_workers=None, learning_rate=RATE)


def finding(*ranks: dict[str, Any], workers: int | None = None, precision: str = "fp32") -> Finding:
    return compare(ranks, REFERENCE, LIMITS[precision], asynchronous_workers=workers, learning_rate=RATE)


REFERENCE = alone()
HALVES = (slice(0, 6), slice(6, 12))


def test_the_reference_trains_every_sample_once() -> None:
    assert (REFERENCE.verdict, REFERENCE.samples_ok, REFERENCE.steps) == ("ok", True, STEPS)
    twice = SAMPLES.copy()
    twice[3, 4] = twice[5, 6]
    bad = alone(samples=twice)
    assert (bad.verdict, bad.reason) == ("failed", "a sample was trained again before all others were")


def test_a_second_pass_trains_every_sample_again() -> None:
    """The first may end within a step."""
    order = sample_order(50, 1, SAMPLES.size).reshape(SAMPLES.shape)
    passes = {"samples": order, "num_samples": np.array(50)}
    assert alone(**passes).verdict == "ok"
    order[7, 11] = order[5, 0]
    assert alone(**passes).samples_ok is False


def test_ranks_that_share_the_global_batches_are_the_same_training() -> None:
    near = LOSSES * (1 + 0.9e-5)
    found = finding(rank(HALVES[1], losses=near), rank(HALVES[0], losses=near))
    assert found.verdict == "ok"
    assert found.reason is None
    assert found.max_loss_difference == pytest.approx(0.9e-5)
    assert found.max_weight_difference == 0.0
    assert found.cells() == ("9.0e-06", "0.0e+00", "ok")
    assert common_cells([found]) == ("8", "each once", "identical")


def test_a_unit_that_rounding_turned_off_is_no_other_training() -> None:
    """The weights of one unit of many differ; it is told by how much."""
    weights = WEIGHTS["weights_0"].copy()
    weights[3] += 0.004 * MOVED
    found = finding(rank(weights_0=weights))
    assert (found.verdict, found.weight_difference) == ("ok", pytest.approx(0.004, rel=1e-3))
    assert found.max_weight_difference == pytest.approx(0.004 * MOVED / 0.5, rel=1e-3)
    assert found.cells()[1] == "4.0e-03"


@pytest.mark.parametrize(
    ("part", "precision", "verdict"),
    [(0.9e-12, "fp64", "ok"), (1.1e-12, "fp64", "failed"), (1.1e-12, "fp32", "ok")],
)
def test_float64_hides_next_to_nothing_in_the_losses(part: float, precision: str, verdict: str) -> None:
    assert finding(rank(losses=LOSSES * (1 + part)), precision=precision).verdict == verdict


@pytest.mark.parametrize(
    ("part", "precision", "verdict"),
    [(0.9e-11, "fp64", "ok"), (1.1e-11, "fp64", "failed"), (1.1e-11, "fp32", "ok")],
)
def test_float64_hides_next_to_nothing_in_the_weights(part: float, precision: str, verdict: str) -> None:
    wide = {name: weight.astype(np.float64) for name, weight in WEIGHTS.items()}
    further = wide["weights_0"].copy()
    further[3] += part * MOVED
    found = finding(rank(**wide | {"weights_0": further}), precision=precision)
    assert (found.verdict, found.weight_difference) == (verdict, pytest.approx(part, rel=1e-3))


def test_what_is_wrong_in_a_single_precision_is_wrong() -> None:
    """And where nothing ran in a precision, the other's is what is known."""
    wrong, none = finding(rank(HALVES[0])), Finding(verdict="not run", reason="no such strategy")
    assert common_cells([finding(rank()), wrong]) == ("8", "WRONG", "identical")
    assert common_cells([none, finding(rank())]) == ("8", "each once", "identical")
    assert common_cells([none, none]) == ("-", "-", "-")


def test_losses_of_the_ranks_are_averaged() -> None:
    lower, higher = rank(HALVES[0], losses=LOSSES - 0.1), rank(HALVES[1], losses=LOSSES + 0.1)
    assert finding(lower, higher).verdict == "ok"


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        ([rank(HALVES[0]), rank(HALVES[0])], "other samples than the global batches were trained"),
        ([rank(HALVES[0])], "other samples"),
        ([rank(losses=LOSSES * (1 + 2e-5))], "the losses are not single's"),
        ([rank(losses=LOSSES * np.nan)], "the losses are not single's"),
        ([rank(losses=LOSSES[:-1])], "the losses are not single's"),
        ([rank(weights_0=WEIGHTS["weights_0"] * 1.0001)], "the weights are not single's"),
        ([rank(weights_1=np.full(3, 1e-4, np.float32))], "the weights are not single's"),
        ([rank(weights_0=WEIGHTS["weights_0"] + np.float32(0.0051 * MOVED / 20**0.5))], "the weights are not single's"),
        ([rank(weights_1=np.full(3, 0.0051 * MOVED / 3**0.5, np.float32))], "the weights are not single's"),
        ([rank(weights_1=np.full(3, np.nan, np.float32))], "the weights are not single's"),
        ([rank(weights_0=np.zeros(21, np.float32))], "the weights are not single's"),
        ([rank(updates=np.array(STEPS + 1))], "the weights were changed 9 times, single's 8"),
    ],
)
def test_what_differs_is_named(ranks: list[dict[str, Any]], reason: str) -> None:
    found = finding(*ranks)
    assert found.verdict == "failed"
    assert reason in str(found.reason)


def test_a_run_that_saw_itself_fail_keeps_its_own_reason() -> None:
    found = finding(rank()).failed("rank 1: gradients were not averaged", digests_ok=False)
    assert (found.verdict, found.reason, found.digests_ok) == ("failed", "rank 1: gradients were not averaged", False)
    assert common_cells([found])[2] == "DIFFER"


def test_an_asynchronous_strategy_is_asked_for_what_it_promises() -> None:
    other = rank(losses=np.linspace(9, 8, STEPS), samples=SAMPLES + 1, updates=np.array(5))
    found = finding(other, workers=2)
    assert (found.verdict, found.steps, found.updates) == ("ok", STEPS // 2, None)
    assert found.max_loss_difference is None
    assert found.unapplied == pytest.approx(0.0, abs=1e-12)
    compared = [("single", REFERENCE), ("ps", found)]
    (limits, note) = explain({"fp64": compared, "fp32": compared})
    assert "1e-12 and 1e-11 in float64, 1e-05 and 0.005 in float32" in limits
    assert note.startswith("ps is asynchronous: ")
    assert "in float64, " in note
    assert "8.929 -> 8.071" in note


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"changes": -RATE * GRADIENTS * 0.99}, "the weights are not the sum of all gradients (off by 5.0e-03"),
        ({"changes": np.array([np.nan, 0.0])}, "the weights are not the sum of all gradients"),
        ({"losses": LOSSES[::-1]}, "the loss does not fall (2.021 -> 2.279)"),
    ],
)
def test_a_broken_promise_is_named(changed: dict[str, Any], reason: str) -> None:
    found = finding(rank(**changed), workers=2)
    assert found.verdict == "failed"
    assert reason in str(found.reason)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_evidence_is_kept_and_read_back(tmp_path: Any, dtype: type) -> None:
    """As it was: what is float64 stays so."""
    third = dtype(1) / dtype(3)
    before = [np.ones((2, 3), dtype)]
    after = [np.full((2, 3), third, dtype)]
    evidence = Evidence(before)
    for step in range(2):
        projections = np.array([[3.0 - 5 * step]], dtype)
        evidence.add(Steps.of(np.array([third + step], dtype), 0.0, 0.0, np.array([[step, step + 10]]), projections))
    evidence.save(tmp_path, 3, num_samples=20, updates=2, weights=after)
    (kept,) = Evidence.load(tmp_path)
    assert kept["losses"].dtype == kept["weights_0"].dtype == dtype
    assert list(kept["losses"]) == [third, third + 1]
    assert kept["samples"].tolist() == [[0, 10], [1, 11]]
    assert (kept["num_samples"], kept["updates"]) == (20, 2)
    assert (kept["weights_0"] == after[0]).all()
    assert kept["moved"] == pytest.approx((1 - float(third)) * 6**0.5, rel=1e-15)
    assert kept["changes"] == pytest.approx([(float(third) - 1) * np.cos(np.arange(6)).sum()], rel=1e-14)
    assert (list(kept["gradients"]), list(kept["gradient_sizes"])) == ([1.0], [5.0])
