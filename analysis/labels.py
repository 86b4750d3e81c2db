"""What tells the configurations of one plot or table apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from analysis.configurations import Configuration, words
from analysis.scaling import Standing
from results.schema import COMPARABLE_FIELDS

_TOLD = {"strategy", "requested_all_reduce", "exchange", "num_devices", "num_ps", "scaling"}
"""In the series or the devices of every row."""


def workloads(standings: Sequence[Standing]) -> list[tuple[str, list[Standing]]]:
    """(workload, its configurations); `standings` as `analysis.configurations` sorts them."""
    groups = groupby(standings, key=lambda one: one.configuration.workload)
    return [(name, list(group)) for name, group in groups]


def series(found: Sequence[Configuration]) -> dict[str, str]:
    """Configuration.key -> the line of a plot that it belongs to.

    It is the configuration's series, and where two of one workload have the same series and number of devices, what
    else they differ in.
    """
    groups: dict[tuple[str, str], list[Configuration]] = defaultdict(list)
    for one in found:
        groups[one.workload, one.series].append(one)
    return {
        one.key: ", ".join([name, *words(one.setup, fields)])
        for (_, name), group in groups.items()
        for fields in [_differing(group)]
        for one in group
    }


def devices(setup: Mapping[str, Any]) -> str:
    """'4 CPU + 1 PS'."""
    count = setup["num_devices"]
    kind = (setup["device_kind"] or "devices").upper()
    servers = f" + {setup['num_ps']} PS" if setup["num_ps"] else ""
    return f"{'-' if count is None else count} {kind}{servers}"


def _differing(group: Sequence[Configuration]) -> list[str]:
    alike: dict[Any, list[Configuration]] = defaultdict(list)
    for one in group:
        alike[one.setup["num_devices"]].append(one)
    names = [name for name in COMPARABLE_FIELDS if name not in _TOLD]
    return [name for name in names if any(len({one.setup[name] for one in several}) > 1 for several in alike.values())]
