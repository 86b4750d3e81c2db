"""The lines that people and existing tools read: Horovod's benchmark, ReFrame's check of it, tf_cnn_benchmarks, MLPerf.

Only rank 0, or the launcher for it, prints them. Their form is fixed: tools match them with regular expressions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from bench.plan import Plan


def print_header(plan: Plan) -> None:
    """What is about to be timed."""
    kind = plan.strategy.resources.device_kind.upper()
    _say(f"Model: {plan.config.workload.model}")
    _say(f"Batch size: {plan.batch_per_device}")
    _say(f"Number of {kind}s: {plan.num_devices}")
    if plan.forward:
        _say("Phase: forward")
    _say(f"Strategy: {plan.strategy.name}, {plan.strategy.cluster.size} process(es), by {plan.strategy.cluster.source}")


def tell(line: str) -> None:
    """What a user should know of the run."""
    _say(line)


def print_input(num_samples: int, sharding: str, readers: int) -> None:
    """How the files of the data set are shared."""
    how = "each process reads its own files" if sharding == "file" else "every process reads all files"
    _say(f"Input: {num_samples} images, sharded by {sharding} ({readers} process(es): {how})")


def print_iter(plan: Plan, row: dict[str, Any], timed_index: int) -> None:
    """One timed iteration, as rank 0 saw it."""
    rate = row["num_batches"] * plan.batch_per_device / row["duration_s"]
    _say(f"Iter #{timed_index}: {rate:.1f} img/sec per {plan.strategy.resources.device_kind.upper()}")


def print_eval(row: dict[str, Any], run_id: str | None) -> None:
    """One evaluation: a row of `evals` without run."""
    _say(
        f"Epoch {row['epoch']}: accuracy {row['accuracy']:.4f}, loss {row['loss']:.4f}, {row['train_s']:.1f} s trained"
    )
    where = {"epoch_num": row["epoch"], "train_s": row["train_s"], "run_id": run_id}
    _say(mllog("eval_accuracy", row["accuracy"], where))


def print_summary(summary: dict[str, Any], *, as_json: bool) -> None:
    """The run's figures; with `as_json` the machine-readable line comes last."""
    if summary["status"] == "ok":
        kind, devices = summary["device_kind"].upper(), summary["num_devices"]
        rate, spread = summary["images_per_s"], summary["images_per_s_spread"]
        _say(f"Img/sec per {kind}: {rate / devices:.1f} +-{spread / devices:.1f}")
        _say(f"Total img/sec on {devices} {kind}(s): {rate:.1f} +-{spread:.1f}")
        _say(mllog("throughput", rate, {"unit": "images/s", "run_id": summary["run_id"]}))
        _say(mllog("step_time_p50", summary["step_time_p50_s"], {"unit": "s", "run_id": summary["run_id"]}))
        _print_convergence(summary)
        _say(f"total images/sec: {rate:.2f}")
    if as_json:
        _say(json.dumps(summary))


def _print_convergence(summary: dict[str, Any]) -> None:
    """Whether and when the target was reached, where one was set."""
    target, time_s = summary["target_accuracy"], summary["time_to_accuracy_s"]
    if time_s is not None:
        _say(f"Time to accuracy {target:g}: {time_s:.2f} s of training")
        _say(mllog("time_to_accuracy", time_s, {"unit": "s", "target": target, "run_id": summary["run_id"]}))
    elif target is not None:
        best = summary["best_accuracy"]
        _say(f"Target accuracy {target:g} not reached in {summary['epochs']} epoch(s): best {best:.4f}")


def print_trial(trial: Mapping[str, Any]) -> None:
    """One run of --find-max-batch, right after it."""
    verdict = "fits" if trial["fits"] else "does not fit"
    sizes = [
        f"{trial[column] / 2**30:.2f} GiB {what}"
        for column, what in (("framework_peak_mem_bytes", "at the peak"), ("predicted_mem_bytes", "predicted"))
        if trial[column] is not None
    ]
    _say(f"{trial['batch_per_device']:>8} images a device  {verdict:<12}  {', '.join(sizes) or trial['error']}")


def print_max_batch(found: Mapping[str, Any], *, as_json: bool) -> None:
    """What --find-max-batch has found; with `as_json` the machine-readable line comes last."""
    largest, too_large = found["max_batch_per_device"], found["smallest_that_does_not_fit"]
    next_one = f"{too_large} does not fit" if too_large else f"larger ones were not tried: --max-batch-size {largest}"
    _say(f"Largest batch: {largest} images a device ({next_one})" if largest else "Not even one image a device fits.")
    if as_json:
        _say(json.dumps(found))


def complain(line: str) -> None:
    """One line for people, on standard error."""
    _print(f"bench.run: {line}", sys.stderr)


def relay(rank: int, line: str) -> None:
    """What a rank wrote on standard error."""
    _print(f"[rank {rank}] {line}", sys.stderr)


def mllog(key: str, value: Any, metadata: dict[str, Any]) -> str:
    """A line in the form of MLPerf's log. The form only: no compliance is claimed."""
    body = {
        "namespace": "trainscale",
        "time_ms": int(time.time() * 1000),
        "event_type": "POINT_IN_TIME",
        "key": key,
        "value": value,
        "metadata": metadata,
    }
    return f":::MLLOG {json.dumps(body)}"


def _say(line: str) -> None:
    _print(line, sys.stdout)


def _print(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except OSError:
        # Who listened is gone: a pipe's reader was killed, a terminal hung up (EIO). The run is still measured, or
        # stopped in order, and recorded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
