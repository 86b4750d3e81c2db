"""What takes the rest of an efficiency, what parameter servers add to it, and why there is none: in sentences."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from analysis.configurations import Configuration
from analysis.scaling import BASE_STRATEGY, WITHOUT_EXCHANGE, Standing
from analysis.words import count, percent, short

_LEAST_LOSS = 0.05
"""Of efficiency: below, nothing needs to be explained."""

_LEAST_SHARE = 0.02
"""Of a step: below, a loss explains nothing."""

_FILES = "tfrecord"
"""The data set that has no place of its own and whose images may be kept in several."""


def losses(one: Standing, base: Configuration) -> list[str]:
    """What takes the rest of the efficiency, as far as it was measured."""
    assert one.efficiency
    if one.efficiency.value > 1 - _LEAST_LOSS:
        return []
    mine = one.configuration
    known: list[tuple[float, str]] = []
    unknown = []
    if one.exposed and one.exposed.low is not None and not one.exposed.excludes(0):
        unknown.append(f"communication (its interval, {percent(one.exposed)}, includes none)")
    elif one.exposed:
        known.append((one.exposed.value, f"communication that nothing hides: {percent(one.exposed)} of a step"))
    elif mine.setup["synchronous"]:
        unknown.append(f"communication (no runs of {WITHOUT_EXCHANGE} with the same processes and devices)")
    waited = mine.share("waited_share")
    if waited is not None and mine.setup["synchronous"]:
        known.append((waited, f"waiting for the slowest rank: {waited:.0%} of a step"))
    elif mine.setup["synchronous"]:
        unknown.append("waiting for the slowest rank (no compute times)")
    ours, theirs = mine.share("data_wait_share"), base.share("data_wait_share")
    if ours is not None and theirs is not None:  # what the base case waits, too, costs no efficiency
        known.append(
            (ours - theirs, f"waiting for data: {ours:.0%} of the time, against {theirs:.0%} in the base case")
        )
    said = []
    largest = max(known, default=None)
    if largest and largest[0] >= _LEAST_SHARE:
        said.append(f"{'What is known of' if unknown else 'The largest part of'} the rest goes to {largest[1]}.")
    elif known and not unknown:
        said.append("Neither communication nor data nor a slow rank explains the rest.")
    if unknown:
        said.append(f"It cannot be told what is lost to {' and '.join(unknown)}.")
    return said


def servers(measured: Sequence[Standing]) -> list[str]:
    """What parameter servers cost as resources, for the largest configuration that has them."""
    served = [one for one in measured if one.efficiency and one.efficiency_with_servers]
    if not served:
        return []
    one = max(served, key=lambda one: one.configuration.setup["num_devices"])
    assert one.efficiency and one.efficiency_with_servers
    many = count(one.configuration.setup["num_ps"], "parameter server")
    return [
        f"{short(one.configuration)} takes {many} besides: counted as devices they lower its efficiency from "
        f"{one.efficiency.value:.0%} to {one.efficiency_with_servers.value:.0%}."
    ]


def without_base(measured: Sequence[Standing]) -> list[str]:
    """Which configurations have no efficiency for want of a base case, and the command that measures it."""
    lacking = [one.configuration for one in measured if one.base is None]
    if not lacking:
        return []
    names = ", ".join(dict.fromkeys(short(one) for one in lacking))
    remedies = "; ".join(dict.fromkeys(_measure_base(one) for one in lacking))
    return [f"No base case for {names}, so no efficiency: {remedies}"]


def _measure_base(one: Configuration) -> str:
    """How to measure what a configuration is compared with."""
    setup = one.setup
    strong = setup["scaling"] == "strong"
    on_files = setup["dataset"] == _FILES
    cores = setup["cores_per_device"]
    if cores is not None and cores != int(cores):
        return f"one device cannot have {cores:g} cores; measure all with the same --cores-per-device."
    command = one.command
    words = {
        "results-dir": command.get("results_dir"),
        "experiment": command.get("experiment"),
        "strategy": BASE_STRATEGY,
        "model": setup["model"],
        **{name: _whole(setup[name.replace("-", "_")]) for name in ("image-size", "num-classes")},
        "freeze": setup["freeze"],
        "dataset": setup["dataset"],
        "data-dir": command.get("data_dir"),
        "cache": setup["cache"] if on_files else None,
        "classes": setup["classes"],
        "num-train-samples": _whole(setup["num_train_samples"]),
        "global-batch-size" if strong else "batch-size": setup["global_batch" if strong else "batch_per_device"],
        "phase": setup["phase"] if setup["phase"] == "forward" else None,
        "optimizer": setup["optimizer"] if setup["optimizer"] != "sgd" else None,
        "epochs": _whole(setup["epochs"]),
        "num-warmup-batches": _whole(command.get("num_warmup_batches")),
        "num-batches-per-iter": setup["num_batches_per_iter"],
        "precision": setup["precision"],
        "device": setup["device_kind"],
        "cores-per-device": _whole(cores),
    }
    flags = [f"--{name}={value}" for name, value in words.items() if value is not None]
    flags += ["--xla"] if setup["xla"] else []
    if setup["preloaded"]:
        return f"measure it with echo {shlex.quote(json.dumps(flags))} | python -m bench.preload"
    return f"measure it with python -m bench.run {shlex.join(flags)}"


def _whole(value: float | None) -> int | None:
    """A column in which some rows are null holds numbers as floats."""
    return None if value is None else int(value)
