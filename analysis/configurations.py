"""Runs that are samples of one thing: equal in every field that `results.schema.COMPARABLE_FIELDS` names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.metrics import EFFICIENCY, METRICS
from analysis.stats import LEVEL, Interval, typical
from results.schema import COMPARABLE_FIELDS, FIELDS_OF_A_START

OTHER_LOAD = "other_cores"
_MAY_BE_ZERO = ("data_wait_share", "compute_share", "waited_share", OTHER_LOAD)
PREDICTED = "predicted_mem_bytes"
FIGURES = (*(name for name in METRICS if name != EFFICIENCY), *_MAY_BE_ZERO, PREDICTED)
"""Columns of a run that are samples of its configuration."""

SETUP = (*COMPARABLE_FIELDS, "synchronous", "gradient_bytes", "actual_all_reduce")
COMMAND = ("num_warmup_batches", "data_dir", "results_dir", "experiment")
"""Columns besides that a command needs to measure the like; saved baselines lack them."""

"""Columns that the runs of a configuration have in common."""

_PLACEMENT = {"num_nodes": "node", "num_processes": "process"}
"""Counts that grow with the devices: told as devices a node or process, or every point would be a line of its own."""

_DIGESTS = {"weights", "data_digest"}
"""Told by their first eight letters."""

_SHAPE = {"image_size": " {0:.0f}x{0:.0f}", "num_classes": " {0:.0f} classes"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Configuration:
    """One configuration and what its runs measured."""

    key: str
    """`comparability_key` of the runs."""
    setup: Mapping[str, Any]
    """What the runs have in common: COMPARABLE_FIELDS and what follows from them; unknown is None."""
    run_ids: tuple[str, ...]
    """Of the runs that are ok, by start."""
    samples: Mapping[str, tuple[float, ...]]
    """Figure -> one value for each of these runs that has it."""
    failures: tuple[str, ...]
    """What each other run ended with; they are counted and never averaged in."""
    machines: frozenset[str]
    """`Results.runs.machine` of these runs or, if none is ok, of the others."""
    command: Mapping[str, Any] = field(default_factory=dict)
    """COMMAND of the newest run."""
    shape: str = ""
    """Image size and classes, as far as other configurations of the model differ in them: ' 64x64'."""
    besides: str = ""
    """What else tells it from a configuration that would have the same title: ', cache=none'."""

    def typical(self, name: str, level: float = LEVEL) -> Interval | None:
        """A figure over runs; None where no run has it."""
        return typical(self.samples[name], level) if self.samples[name] else None

    def share(self, name: str) -> float | None:
        """Median over runs of a share of time, which may be 0."""
        return float(np.median(self.samples[name])) if self.samples[name] else None

    @cached_property
    def series(self) -> str:
        """What makes one line in a plot: the strategy, and what was asked of its gradient exchange."""
        asked = self.setup["requested_all_reduce"]
        return " ".join([str(self.setup["strategy"]), *([asked] if asked not in (None, "auto") else []), *self._knobs])

    @property
    def _knobs(self) -> list[str]:
        return [self.setup["exchange"]] if self.setup["exchange"] else []

    @cached_property
    def workload(self) -> str:
        """What can share a plot: the same model, data, arithmetic, batch basis and cores per device."""
        setup = self.setup
        strong = setup["scaling"] == "strong"
        batch = f"{setup['global_batch']} images in all" if strong else f"{setup['batch_per_device']} images a device"
        count = setup["cores_per_device"]
        known = setup["device_kind"] == "cpu" and count is not None
        cores = f", {count:g} core{'' if count == 1 else 's'} a device" if known else ""
        optimizer = setup["optimizer"]
        forward = ", forward" if setup["phase"] == "forward" else ""
        trained = f", {optimizer}" if optimizer not in (None, "sgd") else ""
        precision = f", {setup['precision']}" if setup["precision"] != "fp32" else ""
        xla = ", XLA" if setup["xla"] else ""
        frozen = f", --freeze {setup['freeze']}" if setup["freeze"] else ""
        classes = f" {setup['classes']}" if setup["classes"] else ""
        return (
            f"{setup['model']}{self.shape}{frozen} on {setup['dataset']}{classes}{forward}{trained}{precision}{xla}, "
            f"{batch}{cores}"
        )

    @cached_property
    def name(self) -> str:
        """Short, for sentences: 'mwms x8 vgg16'."""
        forward = " forward" if self.setup["phase"] == "forward" else ""
        return f"{self.series} x{self.setup['num_devices']} {self.setup['model']}{self.shape}{forward}"

    @cached_property
    def title(self) -> str:
        """Whole, for a gate's lines: the series and its devices, then the workload."""
        nodes = f" on {self.setup['num_nodes']} nodes" if (self.setup["num_nodes"] or 1) > 1 else ""
        return f"{self.series} x{self.setup['num_devices']}{nodes}: {self.workload}{self.besides}"


def configurations(runs: pd.DataFrame) -> list[Configuration]:
    """All configurations among `analysis.load.Results.runs`, sorted by workload, devices and series."""
    ok = (runs["status"] == "ok").to_numpy()
    columns = {name: runs[name].to_numpy(dtype=float, na_value=np.nan) for name in FIGURES}
    fields = {name: _plain(runs[name]) for name in SETUP}
    command = {name: _plain(runs[name]) for name in COMMAND if name in runs}
    ids, machines = runs["run_id"].tolist(), runs["machine"].tolist()
    ends = [f"{status}: {error}" for status, error in zip(runs["status"], runs["error"], strict=True)]
    found = []
    for key, places in runs.groupby("comparability_key", sort=False).indices.items():
        rows = np.asarray(places)
        good = rows[ok[rows]]
        telling = good if good.size else rows  # a run that failed may not have come to all that there is to tell
        picked = {name: values[good] for name, values in columns.items()}
        found.append(
            Configuration(
                key=str(key),
                setup={name: values[telling[-1]] for name, values in fields.items()},
                command={name: values[telling[-1]] for name, values in command.items()},
                run_ids=tuple(ids[row] for row in good),
                samples={name: tuple(values[_known(name, values)].tolist()) for name, values in picked.items()},
                failures=tuple(ends[row] for row in rows if not ok[row]),
                machines=frozenset(machines[row] for row in telling),
            )
        )
    return in_order(told_apart(_with_failures(found)))


def may_be(failed: Configuration, one: Configuration, besides: Sequence[str] = ()) -> bool:
    """Whether runs that failed were runs of this configuration, as far as they came to know what they are. They may
    differ in `besides`."""
    begun = failed.setup["num_devices"] is not None
    return not failed.run_ids and all(
        theirs == ours or (not theirs and (name in FIELDS_OF_A_START or not begun))
        for name in COMPARABLE_FIELDS
        if name not in besides
        for theirs, ours in [(failed.setup[name], one.setup[name])]
    )


def _with_failures(found: Sequence[Configuration]) -> list[Configuration]:
    """Counts what failed early with the one configuration that it can have been; else it stays one by itself."""
    good = {one.key: one for one in found if one.run_ids}
    alone = []
    for failed in found:
        if failed.run_ids:
            continue
        candidates = [one for one in good.values() if may_be(failed, one)]
        if len(candidates) == 1:
            (one,) = candidates
            good[one.key] = replace(one, failures=one.failures + failed.failures)
        else:
            alone.append(failed)
    return [*good.values(), *alone]


def told_apart(found: Iterable[Configuration]) -> list[Configuration]:
    """The configurations with `shape` and `besides` as they need them among these."""
    shaped = [
        replace(one, shape="".join(_SHAPE[name].format(one.setup[name]) for name in differ), besides="")
        # What never began has no shape.
        for one, differ in _differences(
            found, lambda one: (one.setup["model"], one.setup["image_size"] is None), _SHAPE
        )
    ]
    return [
        replace(one, besides="".join(f", {word}" for word in words(one.setup, differ)))
        for one, differ in _differences(shaped, lambda one: one.title, COMPARABLE_FIELDS)
    ]


def _differences(
    found: Iterable[Configuration], alike: Callable[[Configuration], Hashable], fields: Iterable[str]
) -> Iterator[tuple[Configuration, list[str]]]:
    """Each configuration, and in which of the fields those that are alike differ."""
    groups: dict[Hashable, list[Configuration]] = defaultdict(list)
    for one in found:
        groups[alike(one)].append(one)
    for group in groups.values():
        differ = [name for name in fields if len({one.setup[name] for one in group}) > 1]
        yield from ((one, differ) for one in group)


def words(setup: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    """What a configuration is in some of the COMPARABLE_FIELDS."""
    devices = setup["num_devices"]
    placed = [
        f"{devices / setup[name]:g} a {_PLACEMENT[name]}" if devices and setup[name] else f"{name} unknown"
        for name in [name for name in fields if name in _PLACEMENT][:1]
    ]
    shown = {name: str(setup[name])[: 8 if name in _DIGESTS else None] for name in fields}
    return placed + [f"{name}={shown[name]}" for name in fields if name not in _PLACEMENT]


def differing(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], besides: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """field -> (ours, theirs) of the COMPARABLE_FIELDS, `besides` apart, in which two configurations' setups differ."""
    fields = (name for name in COMPARABLE_FIELDS if name not in besides)
    return {name: (ours[name], theirs[name]) for name in fields if ours[name] != theirs[name]}


def in_order(found: Iterable[Configuration]) -> list[Configuration]:
    """Sorted for reading: by workload, devices and series."""
    return sorted(found, key=lambda one: (one.workload, one.setup["num_devices"] or 0, one.series))


def _known(name: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Where there is a value; of what cannot be 0, as a rate is of a run whose rows are damaged, 0 is none."""
    return np.isfinite(values) & (values >= 0 if name in _MAY_BE_ZERO else values > 0)


def _plain(column: pd.Series[Any]) -> list[Any]:
    """The values as Python's own; what is unknown is None."""
    values: Iterable[Any] = column.astype(object).tolist()
    return [None if missing else value for value, missing in zip(values, column.isna(), strict=True)]
