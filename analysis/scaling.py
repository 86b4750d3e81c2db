"""How a configuration stands against its base cases: speed-up, efficiency, what the gradient exchange costs.

Every ratio names its base case and carries an interval in which both sides vary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.configurations import Configuration, differing
from analysis.stats import Interval, ratio

_SAME_WORK = (
    *("model", "image_size", "num_classes", "dataset", "data_digest", "classes", "num_train_samples", "cache"),
    *("phase", "optimizer", "num_batches_per_iter", "precision", "xla", "trainable_params", "preloaded"),
    *("variables", "onednn", "measurement_version"),
)
_SAME_HARDWARE = ("device_kind", "device_name", "cores_per_device")
LIKE_BASE_CASE = (*_SAME_WORK, *_SAME_HARDWARE)
"""In what a configuration equals its base case, besides the batch: what differs in these is never held together."""

BASE_STRATEGY = "single"
WITHOUT_EXCHANGE = "independent"

RATE = "images_per_s"

GIGABYTE = 10**9
"""Bandwidths count in powers of ten, as nccl-tests and network cards do."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One configuration against its base cases."""

    configuration: Configuration
    base: Configuration | None
    """One device without a strategy: the same work on the same hardware, with the same batch per device for weak
    scaling and the same global batch for strong."""
    speedup: Interval | None
    """T(N) / T(1), T in images/s."""
    efficiency: Interval | None
    """T(N) / (N x T(1)): weak scaling as Horovod defines it; with a fixed global batch it equals t(1) / (N x t(N))."""
    why_no_efficiency: str | None
    efficiency_with_servers: Interval | None
    """The same with each parameter server counted as a device; None without servers."""
    node_base: Configuration | None
    """The same series on one node, as many devices a node."""
    node_speedup: Interval | None
    """T / T of `node_base`."""
    without_exchange: Configuration | None
    """`independent`: the same processes on the same devices, no gradient exchange."""
    exposed: Interval | None
    """Exposed communication, 1 - t_independent / t: the share of a step that the exchange adds and nothing hides. An
    interval may reach below 0."""
    bus_gb_per_s: float | None
    """What a ring would have to carry if it had the whole step for it, 10^9 bytes/s: gradients x 2(n-1)/n / step time
    (nccl-tests). The link cannot be slower than that."""


def standings(found: Sequence[Configuration]) -> list[Standing]:
    """Each of the configurations against the others, in their order."""
    bases = _index((one for one in found if one.setup["strategy"] == BASE_STRATEGY and one.samples[RATE]), _base_key)
    nodes = _index((one for one in found if one.setup["num_nodes"] == 1 and one.samples[RATE]), _node_key)
    free = _index(
        (one for one in found if one.setup["strategy"] == WITHOUT_EXCHANGE and one.samples[RATE]), _exchange_key
    )
    return [
        _standing(
            one,
            _nearest(one, bases.get(_base_key(one), ())),
            _nearest(one, nodes.get(_node_key(one), ())),
            _nearest(one, free.get(_exchange_key(one), ())),
        )
        for one in found
    ]


def largest_over(among: Iterable[Standing], floor: float) -> Standing | None:
    """The configuration with the most devices whose efficiency is at least `floor`."""
    over = [one for one in among if one.efficiency and one.efficiency.value >= floor]
    return max(over, key=lambda one: one.configuration.setup["num_devices"], default=None)


def _standing(
    one: Configuration, base: Configuration | None, node: Configuration | None, free: Configuration | None
) -> Standing:
    mine, setup = one.samples[RATE], one.setup
    why = None
    if not mine:
        base = node = free = None
        why = "no good run"
    elif base is None:
        why = "no run of the base case with the same work and resources"
    if node is one or setup["num_nodes"] == 1:
        node = None
    if not setup["synchronous"] or setup["strategy"] == BASE_STRATEGY:
        free = None
    kept = ratio([mine], [free.samples[RATE]]) if free else None  # t_independent / t = T / T_independent
    servers = setup["num_ps"] or 0
    devices = setup["num_devices"]
    return Standing(
        configuration=one,
        base=base,
        speedup=ratio([mine], [base.samples[RATE]]) if base else None,
        efficiency=_efficiency(one, base, devices) if base else None,
        why_no_efficiency=why,
        efficiency_with_servers=_efficiency(one, base, devices + servers) if base and servers else None,
        node_base=node,
        node_speedup=ratio([mine], [node.samples[RATE]]) if node else None,
        without_exchange=free,
        exposed=_one_minus(kept) if kept else None,
        bus_gb_per_s=_bus(one),
    )


def _efficiency(one: Configuration, base: Configuration, resources: int) -> Interval:
    if one is base:  # against itself there is nothing to vary
        return Interval(1.0, None, None, 0.0, len(one.run_ids))
    return ratio([one.samples[RATE]], [base.samples[RATE]], scale=1 / resources)


def _one_minus(kept: Interval) -> Interval:
    low = None if kept.high is None else 1 - kept.high
    high = None if kept.low is None else 1 - kept.low
    return Interval(1 - kept.value, low, high, kept.level, kept.runs)


def _bus(one: Configuration) -> float | None:
    step, devices = one.typical("step_time_p50_s"), one.setup["num_devices"]
    size = one.setup["gradient_bytes"]
    if step is None or size is None or not one.setup["synchronous"] or (devices or 1) < 2:  # noqa: PLR2004
        return None
    return float(size * 2 * (devices - 1) / devices / step.value / GIGABYTE)


def _base_key(one: Configuration) -> tuple[Any, ...]:
    batch = "global_batch" if one.setup["scaling"] == "strong" else "batch_per_device"
    return (*(one.setup[name] for name in LIKE_BASE_CASE), one.setup[batch])


def _node_key(one: Configuration) -> tuple[Any, ...]:
    nodes = one.setup["num_nodes"] or 1
    return (one.series, *_base_key(one), one.setup["scaling"], (one.setup["num_devices"] or 0) / nodes)


def _exchange_key(one: Configuration) -> tuple[Any, ...]:
    # The scaling, because the base key's batch is a device's or that of all; the processes, because one that computes
    # for several devices spends its time otherwise than several do, exchange or none.
    return (*_base_key(one), *(one.setup[name] for name in ("scaling", "num_processes", "num_devices", "num_nodes")))


def _index(
    found: Iterable[Configuration], key: Callable[[Configuration], tuple[Any, ...]]
) -> Mapping[tuple[Any, ...], Sequence[Configuration]]:
    held: dict[tuple[Any, ...], list[Configuration]] = defaultdict(list)
    for one in found:
        held[key(one)].append(one)
    return held


def _nearest(one: Configuration, among: Iterable[Configuration]) -> Configuration | None:
    """The one that differs in the fewest fields (another learning rate or thread count is another base case), and of
    several the one with the most runs."""
    return min(among, key=lambda other: (len(differing(one.setup, other.setup)), -len(other.run_ids)), default=None)
