"""Trainers in this process, under every strategy that one process can hold: two logical CPU devices, small batches."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from bench.workloads import workload
from jobs.cluster import ClusterEnv
from strategies import load
from strategies.base import ExchangeConfig, NumericsConfig, Resources, Workload

GLOBAL_BATCH = 8

DEVICES = {"mirrored": 2, "central": 2}
"""Of the others one process has one."""

_ALONE = SimpleNamespace(
    Average=None,
    Compression=SimpleNamespace(none=None),
    allreduce=lambda gradient, **_how: tf.identity(gradient),
    broadcast_variables=lambda _variables, root_rank: None,
)
"""Horovod as it is with one process."""

_PLACES: dict[str, Callable[[], dict[str, Any]]] = {
    "mirrored": lambda: {"_devices": ["CPU:0", "CPU:1"]},
    "central": lambda: {"_devices": ["CPU:0", "CPU:1"]},
    "mwms": lambda: {"_distribution": tf.distribute.MultiWorkerMirroredStrategy()},
    "horovod": lambda: {"_hvd": _ALONE},
}
"""Strategy -> what `connect` would have set; it would set up the devices again."""

STRATEGIES = ("single", "independent", *_PLACES)


def job(strategy: str = "single", model: str = "mnist_cnn", **training: Any) -> Workload:
    """A workload on digits, its batch shared by the strategy's devices; `training` as `bench.workloads.workload` has
    it."""
    return workload(
        model=model,
        dataset="digits",
        data_dir=None,
        seed=1,
        batch_per_device=GLOBAL_BATCH // DEVICES.get(strategy, 1),
        global_batch=GLOBAL_BATCH,
        steps=lambda _: 12,
        **{"numerics": NumericsConfig(), **training},
    )


def trainer(strategy: str, work: Workload) -> Any:
    """A trainer of that strategy, whose devices the workload's batch was made for."""
    resources = Resources(
        device_kind="cpu",
        num_gpus=0,
        devices=DEVICES.get(strategy, 1),
        gpu_memory_mib=None,
        intra_op_threads=1,
        inter_op_threads=1,
    )
    # Another MirroredStrategy of a process finds the collectives of the last one, which may have had other shapes.
    exchange = ExchangeConfig(all_reduce="hierarchical_copy") if strategy == "mirrored" else ExchangeConfig()
    made = load(strategy)(ClusterEnv.alone(), resources, exchange, work.numerics)
    vars(made).update(_PLACES.get(strategy, dict)())
    return made.trainer(work)


def graph_of(one: Any) -> Any:
    """The traced step."""
    return _traced(one._steps, one._iterator)


def functions_of(one: Any) -> list[Any]:
    """Those that the traced step calls."""
    return [*graph_of(one).library.function]


def nodes_of(one: Any) -> list[Any]:
    """All operations of the traced step."""
    return _nodes(graph_of(one))


def evaluation_nodes_of(one: Any) -> list[Any]:
    """All operations of the traced evaluation."""
    return _nodes(_traced(one._evaluator._count, one._evaluator._iterator))


def _traced(function: Any, iterator: Any) -> Any:
    return function.get_concrete_function(iterator, tf.TensorSpec([], tf.int32)).graph.as_graph_def()


def _nodes(graph: Any) -> list[Any]:
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
