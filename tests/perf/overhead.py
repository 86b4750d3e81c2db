"""What measuring costs: `python -m tests.perf.overhead`.

Three loops train the same model on the same input with the same optimizer, one after another, many times over: the
benchmark's own loop (`bench.measure` with telemetry and a shard), the same without telemetry, and a bare hand-written
`tf.function` loop. Keras's `fit` does the same number of steps. Prints the median of the ratios, round by round.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.stats import typical
from bench import frameworks
from bench.clock import Clock
from bench.measure import Schedule, measure
from bench.telemetry import ProcessSampler, Sampler
from bench.workloads import MODELS, build_model, workload
from jobs.cluster import ClusterEnv
from results.store import Store
from strategies import load
from strategies.base import ExchangeConfig, NumericsConfig, Resources, Shard, Steps, Workload

MODEL, BATCH, STEPS, CALLS, ROUNDS = "mnist_cnn", 64, 10, 2, 80
IMAGES = BATCH * STEPS * CALLS


def bare_loop(job: Workload) -> Callable[[], None]:
    """What a careful user would write by hand for one device."""
    import keras
    import tensorflow as tf

    model = build_model(MODELS[MODEL], seed=1)
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)
    weights = [variable.value for variable in model.trainable_variables]
    iterator = iter(job.build_input(Shard(first=0, count=1, total=1)))

    @tf.function  # type: ignore[untyped-decorator]
    def steps() -> Any:
        loss = tf.constant(0.0)
        for _ in tf.range(STEPS):
            images, labels, _ = next(iterator)
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
            optimizer.apply(tape.gradient(loss, weights), model.trainable_variables)
        return loss

    def run() -> None:
        for _ in range(CALLS):
            float(steps())

    return run


def fit_loop(job: Workload) -> Callable[[], None]:
    """Keras's own loop, at its best: data in memory, several steps an execution."""
    import keras

    model = build_model(MODELS[MODEL], seed=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, steps_per_execution=STEPS)
    data = job.build_input(Shard(first=0, count=1, total=1)).map(lambda images, labels, _: (images, labels)).repeat()
    return lambda: model.fit(data, steps_per_epoch=STEPS * CALLS, epochs=1, verbose=0)


def our_loop(job: Workload, folder: Path, *, telemetry: bool) -> Callable[[], float]:
    """The benchmark's, as `bench.rank` drives it; returns the seconds that the benchmark itself would report."""
    resources = Resources(
        device_kind="cpu", num_gpus=0, devices=None, gpu_memory_mib=None, intra_op_threads=0, inter_op_threads=0
    )
    trainer = load("single")(ClusterEnv.alone(), resources, ExchangeConfig(), NumericsConfig()).trainer(job)
    assert trainer is not None
    shard = Store(folder).open_shard("overhead", f"telemetry-{telemetry}")
    clock = Clock()
    schedule = Schedule(num_warmup_batches=1, num_batches_per_iter=STEPS, num_iters=CALLS)
    process = ProcessSampler(node_counters=True)

    def run() -> float:
        rows: list[dict[str, Any]] = []

        def keep(row: dict[str, Any], _steps: Steps) -> None:
            shard.add_iter(row)
            rows.append(row)

        sampler = Sampler(period_s=0.2, clock=clock, source=process, write=shard.add_telemetry)
        if telemetry:
            sampler.start()
        measure(
            trainer,
            schedule,
            clock,
            on_traced=lambda: None,
            on_warm=lambda: None,
            on_iter=keep,
            on_epoch=lambda *_: False,
        )
        if telemetry:
            sampler.stop(60)
        return float(rows[-1]["t_start_ns"] - rows[1]["t_start_ns"]) / 1e9 + float(rows[-1]["duration_s"])

    return run


def timed(loop: Callable[[], object]) -> Callable[[], float]:
    """The loop, returning its seconds."""

    def run() -> float:
        start = time.perf_counter()
        loop()
        return time.perf_counter() - start

    return run


def main() -> int:
    """Prints a line for each comparison and returns 0."""
    # One core: there the loops' own work and the telemetry thread have nowhere to hide, and the noise is smaller.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    frameworks.load()
    job = workload(
        model=MODEL,
        dataset="synthetic",
        data_dir=None,
        seed=1,
        batch_per_device=BATCH,
        global_batch=BATCH,
        steps=lambda _: (STEPS * CALLS + 1) * (ROUNDS + 1),
        numerics=NumericsConfig(),
    )
    with tempfile.TemporaryDirectory() as folder:
        loops = {
            "bench": our_loop(job, Path(folder), telemetry=True),
            "without telemetry": our_loop(job, Path(folder), telemetry=False),
            "bare tf.function": timed(bare_loop(job)),
            "keras fit": timed(fit_loop(job)),
        }
        rates: dict[str, list[float]] = {name: [] for name in loops}
        for round_number in range(ROUNDS + 1):
            names = list(loops)
            # Every loop gets every place in the round equally often, so that none always runs on a warmer machine.
            for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
                seconds = loops[name]()
                if round_number:  # the first round traces
                    rates[name].append(IMAGES / seconds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:20} {medians[name]:8.0f} images/s (median of {ROUNDS}, {min(values):.0f} to {max(values):.0f})")
    for name, other in (
        ("bench", "bare tf.function"),
        ("bench", "without telemetry"),
        ("bench", "keras fit"),
    ):
        pairs = [ours / theirs for ours, theirs in zip(rates[name], rates[other], strict=True)]
        ratio = typical(pairs)
        print(f"{name} / {other}: {ratio.value:.3f} (95% interval {ratio.low:.3f} to {ratio.high:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
