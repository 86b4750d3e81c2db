"""Optimizers, precision and the forward phase under the strategies that need several processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from bench import frameworks
from bench.evidence import Evidence, digest
from bench.workloads import MODELS, build_model
from results.schema import RUNS
from tests.benchmark import SEVERAL_S, Benchmark, null, run_all

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

PLACES = {
    "single": ["--strategy=single"],
    "mwms": ["--strategy=mwms", "--num-workers=2"],
    "horovod": ["--strategy=horovod", "--num-workers=2"],
    # One worker, whose steps come one after the other: then also asynchronous training is that of one device.
    "ps": ["--strategy=ps", "--num-workers=1"],
}

OPTIMIZERS = {"nesterov": ("ps",), "adamw": ("mwms", "horovod", "ps")}
"""With all that the others do as well: averages, decay, a division; tests/frameworks/test_optimizers.py takes all of
them to several devices of one process. Under ps, other processes hold what an optimizer remembers."""

TOLERANCES = {"ps": 1e-5, "mwms": 1e-2, "horovod": 1e-2}
"""Of the change of all weights together. One worker of ps computes what `single` does; two devices round otherwise, and
that moves a weight of adamw whose gradient is nothing but rounding as far as any other. A part p of such weights makes
sqrt(p): some hundred of the 62,346, of units that are hardly ever active. tests/frameworks/test_optimizers.py has a
model without such units, and is stricter."""

FP32_ROUNDS = 2e-5
"""More than losses in fp32 differ by, relatively, wherever they are computed."""

EIGHT_STEPS = ["--num-batches-per-iter=7", "--num-iters=1", "--evidence"]
EIGHT_CALLS = ["--num-batches-per-iter=1", "--num-iters=7"]
FORWARD = ["--phase=forward", "--num-iters=4"]

RUNS_TO_MAKE = {
    **{
        f"{name} {place}": [*PLACES[place], f"--optimizer={name}", *EIGHT_STEPS]
        for name, places in OPTIMIZERS.items()
        for place in ("single", *places)
    },
    **{f"forward {place}": [*flags, *FORWARD, "--precision=bf16"] for place, flags in PLACES.items()},
    "forward fp32": [*PLACES["single"], *FORWARD],
    "fp16": ["--strategy=ps", "--num-workers=2", "--precision=fp16", "--optimizer=adamw", "--num-iters=1"],
    **{
        f"{precision} ps": [*PLACES["ps"], f"--precision={precision}", "--optimizer=adamw", *EIGHT_CALLS]
        for precision in ("bf16", "fp16")
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Benchmark]:
    """All runs, by forks of one process."""
    root, lines = tmp_path_factory.mktemp("phases"), []
    found = {name: Benchmark(root / name / "data") for name in RUNS_TO_MAKE}
    common = ["--device=cpu", "--dataset=digits", "--global-batch-size=24", "--num-warmup-batches=1"]
    for name, flags in RUNS_TO_MAKE.items():
        words = [f"--evidence={root / name / 'evidence'}" if word == "--evidence" else word for word in flags]
        lines.append([*common, *words, "--telemetry-period=0", f"--results-dir={found[name].results}"])
    run_all(lines)
    return found


def initial_weights() -> list[np.ndarray]:
    frameworks.load()
    return [variable.numpy() for variable in build_model(MODELS["mnist_cnn"], seed=1).trainable_variables]


def flat(weights: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in weights])


def trained(run: Benchmark) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """Losses [steps] of the global batches, rank 0's or the servers' weights, and how often they were changed."""
    ranks = Evidence.load(run.results.parent / "evidence")
    names = [f"weights_{index}" for index in range(6)]
    losses = np.mean([rank["losses"] for rank in ranks], axis=0)
    return losses, flat(ranks[0][name] for name in names), {int(rank["updates"]) for rank in ranks}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, places in OPTIMIZERS.items() for place in places])
def test_an_optimizer_trains_what_it_trains_on_one_device(made: Mapping[str, Benchmark], place: str, name: str) -> None:
    losses, weights, updates = trained(made[f"{name} {place}"])
    wanted, theirs, _ = trained(made[f"{name} single"])
    assert updates == {8}
    assert np.allclose(losses, wanted, rtol=1e-5)
    assert np.linalg.norm(weights - theirs) <= TOLERANCES[place] * np.linalg.norm(theirs - flat(initial_weights()))
    row = made[f"{name} {place}"].only_run()
    assert (row["phase"], row["optimizer"]) == ("train", name)
    assert row["learning_rate"] == {"nesterov": 0.01, "adamw": 0.001}[name]


@pytest.mark.parametrize("place", PLACES)
def test_the_forward_phase_infers_the_same_everywhere(made: Mapping[str, Benchmark], place: str) -> None:
    """Mean loss of a global batch: the weights stay what they were, and bfloat16 is what computes."""
    found, single, fp32 = (losses(made[f"forward {name}"]) for name in (place, "single", "fp32"))
    assert len(found) == 5
    assert np.allclose(found, single, rtol=1e-5)
    assert np.allclose(found, fp32, rtol=1e-2)
    assert (np.abs(found / fp32 - 1) > FP32_ROUNDS).any()


@pytest.mark.parametrize("place", PLACES)
def test_a_forward_run_says_what_it_has_not(made: Mapping[str, Benchmark], place: str) -> None:
    row = made[f"forward {place}"].only_run()
    assert (row["phase"], row["status"], row["num_batches_per_iter"]) == ("forward", "ok", 1)
    lacking = {column.name for column in RUNS if null(row[column.name])}
    nothing = {"synchronous", "optimizer", "learning_rate", "requested_all_reduce", "actual_all_reduce"}
    assert nothing | {"gradient_bytes"} <= lacking
    reasons: dict[str, Any] = dict(row["null_reasons"])
    assert lacking - {"error", "failed_rank", "failed_phase"} <= reasons.keys()
    assert reasons["actual_all_reduce"] == "the forward phase exchanges no gradients"
    ranks = made[f"forward {place}"].table("ranks")["weight_digests"].dropna()
    assert {each for several in ranks for each in several} == (set() if place == "ps" else {digest(initial_weights())})


def test_workers_that_share_servers_and_scale_their_losses_learn(made: Mapping[str, Benchmark]) -> None:
    assert (made["fp16"].only_run()["precision"], made["fp16"].only_run()["optimizer"]) == ("fp16", "adamw")
    iters = made["fp16"].table("iters")
    assert set(iters["rank"]) <= {1, 2}
    assert iters["loss"].between(1.0, 4.0).all()
    assert iters[~iters["warmup"]]["loss"].mean() < iters[iters["warmup"]]["loss"].mean()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_worker_of_servers_computes_in_the_precision_asked_for(made: Mapping[str, Benchmark], precision: str) -> None:
    """It trains what fp32 trains, rounded otherwise."""
    found, fp32 = losses(made[f"{precision} ps"]), trained(made["adamw ps"])[0]
    assert np.allclose(found, fp32, rtol=1e-2)
    assert (np.abs(found / fp32 - 1) > FP32_ROUNDS).any()


def test_two_optimizers_differ(made: Mapping[str, Benchmark]) -> None:
    one, other = (trained(made[f"{name} single"])[0] for name in OPTIMIZERS)
    assert one[0] == other[0]
    assert abs(one[-1] / other[-1] - 1) > 1e-3


def losses(run: Benchmark) -> np.ndarray:
    """[iterations]: mean over the ranks."""
    return run.table("iters").groupby("iter")["loss"].mean().to_numpy()
