"""Our loop against a plain Horovod script: `python -m tests.perf.horovod_script`.

Two ranks, a core each. The plain loop is what Horovod's synthetic benchmark does: one batch that stays in memory, one
step a call of a `tf.function` with Horovod's gradient tape. Ours is the benchmark's, input pipeline included, with one
and with ten steps a call. The loops take turns, many times over; prints the median of the ratios, round by round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from analysis.stats import typical
from bench import frameworks
from bench.workloads import MODELS, build_model, workload
from jobs import launchers
from jobs.cluster import ClusterEnv
from jobs.launch import free_ports
from jobs.rendezvous import Rendezvous
from strategies import load
from strategies.base import ExchangeConfig, NumericsConfig, Resources, Strategy

MODEL, RANKS, STEPS, ROUNDS = "mnist_cnn", 2, 20, 40
BATCHES = (64, 8)
"""Images a rank and step: much and little computing to hide a call's cost behind."""
LOOPS = ("plain script", "ours, 1 step a call", "ours, 10 steps a call")


def plain_loop(batch: int) -> Callable[[], None]:
    """In the manner of Horovod's own benchmark, with what Keras 3 needs to work at all."""
    import horovod.tensorflow as hvd
    import keras
    import tensorflow as tf

    model = build_model(MODELS[MODEL], seed=1)
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)
    weights = [variable.value for variable in model.trainable_variables]
    images = tf.random.uniform([batch, 28, 28, 1])
    labels = tf.random.uniform([batch], maxval=10, dtype=tf.int32)

    @tf.function  # type: ignore[untyped-decorator]
    def step() -> Any:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        tape = hvd.DistributedGradientTape(tape)
        optimizer.apply(tape.gradient(loss, weights), model.trainable_variables)
        return loss

    def run() -> None:
        for _ in range(STEPS):
            step()

    return run


def rank(cluster: ClusterEnv) -> None:
    """One rank's share; rank 0 prints."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[cluster.rank % len(os.sched_getaffinity(0))]})
    frameworks.load()
    meeting = Rendezvous(cluster, timeout_s=60)
    resources = Resources(
        device_kind="cpu", num_gpus=0, devices=None, gpu_memory_mib=None, intra_op_threads=1, inter_op_threads=1
    )
    strategy = load("horovod")(cluster, resources, ExchangeConfig(), NumericsConfig())
    strategy.connect(meeting.exchange)
    for batch in BATCHES:
        rates = compare(strategy, meeting, batch)
        if cluster.rank == 0:
            report(batch, rates)
    strategy.close()


def compare(strategy: Strategy, meeting: Rendezvous, batch: int) -> dict[str, list[float]]:
    """images/s of every loop in every round."""
    job = workload(
        model=MODEL,
        dataset="synthetic",
        data_dir=None,
        seed=1,
        batch_per_device=batch,
        global_batch=RANKS * batch,
        steps=lambda _: 2 * STEPS * (ROUNDS + 1),
        numerics=NumericsConfig(),
    )
    trainer = strategy.trainer(job)
    assert trainer is not None

    def ours(steps_a_call: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(STEPS // steps_a_call):
                trainer.run(steps_a_call)()

        return run

    loops = dict(zip(LOOPS, (plain_loop(batch), ours(1), ours(10)), strict=True))
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for round_number in range(ROUNDS + 1):
        # Every loop gets every place in the round equally often.
        for name in LOOPS[round_number % 3 :] + LOOPS[: round_number % 3]:
            meeting.exchange(b"")
            start = time.perf_counter()
            loops[name]()
            meeting.exchange(b"")
            if round_number:  # the first round traces
                rates[name].append(RANKS * batch * STEPS / (time.perf_counter() - start))
    return rates


def report(batch: int, rates: dict[str, list[float]]) -> None:
    """A line for each loop, and the ratios."""
    print(f"{RANKS} ranks, {batch} images each")
    for name, values in rates.items():
        print(f"{name:22} {statistics.median(values):8.0f} images/s ({min(values):.0f} to {max(values):.0f})")
    for name in LOOPS[1:]:
        pairs = [mine / plain for mine, plain in zip(rates[name], rates[LOOPS[0]], strict=True)]
        ratio = typical(pairs)
        print(f"{name} / {LOOPS[0]}: {ratio.value:.3f} (95% interval {ratio.low:.3f} to {ratio.high:.3f})")


def main() -> int:
    """Starts the ranks and returns 0 when all of them have ended well."""
    ports = free_ports(RANKS)
    clusters = [ClusterEnv.local(number, ports, ["worker"] * RANKS) for number in range(RANKS)]
    if "TF_CONFIG" in os.environ:
        cluster = launchers.read(os.environ)
        assert cluster is not None
        rank(cluster)
        return 0
    command = [sys.executable, "-m", "tests.perf.horovod_script"]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    running = [subprocess.Popen(command, env={**os.environ, **quiet, "TF_CONFIG": c.tf_config()}) for c in clusters]
    return max(abs(process.wait()) for process in running)


if __name__ == "__main__":
    sys.exit(main())
