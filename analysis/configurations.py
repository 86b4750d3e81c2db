"""Runs that are samples of one thing: equal in every field that `results.schema.COMPARABLE_FIELDS` names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.metrics import EFFICIENCY, METRICS
from analysis.stats import LEVEL, Interval, typical
from results.schema import COMPARABLE_FIELDS

_SHARES = ("data_wait_share", "compute_share", "waited_share")
PREDICTED = "predicted_mem_bytes"
FIGURES = (*(name for name in METRICS if name != EFFICIENCY), *_SHARES, PREDICTED)
"""Columns of a run that are samples of its configuration."""

SETUP = (*COMPARABLE_FIELDS, "synchronous", "gradient_bytes", "actual_all_reduce")
"""Columns that the runs of a configuration have in common."""


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
    """`Results.runs.machine` of all runs."""
    shape: str = ""
    """Image size and classes, as far as other configurations of the model differ in them: ' 64x64'."""

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
        return f"{self.series} x{self.setup['num_devices']}{nodes}: {self.workload}"


def configurations(runs: pd.DataFrame) -> list[Configuration]:
    """All configurations among `analysis.load.Results.runs`, sorted by workload, devices and series."""
    ok = (runs["status"] == "ok").to_numpy()
    columns = {name: runs[name].to_numpy(dtype=float, na_value=np.nan) for name in FIGURES}
    fields = {name: _plain(runs[name]) for name in SETUP}
    shapes = _shapes(fields)
    ids, machines = runs["run_id"].tolist(), runs["machine"].tolist()
    ends = [f"{status}: {error}" for status, error in zip(runs["status"], runs["error"], strict=True)]
    found = []
    for key, places in runs.groupby("comparability_key", sort=False).indices.items():
        rows = np.asarray(places)
        good = rows[ok[rows]]
        picked = {name: values[good] for name, values in columns.items()}
        found.append(
            Configuration(
                key=str(key),
                setup={name: values[rows[-1]] for name, values in fields.items()},
                run_ids=tuple(ids[row] for row in good),
                samples={name: tuple(values[_known(name, values)].tolist()) for name, values in picked.items()},
                failures=tuple(ends[row] for row in rows if not ok[row]),
                machines=frozenset(machines[row] for row in rows),
                shape=shapes[rows[-1]],
            )
        )
    return in_order(found)


def _shapes(fields: Mapping[str, Sequence[Any]]) -> list[str]:
    """`Configuration.shape` of each run."""
    told = {"image_size": " {0:.0f}x{0:.0f}", "num_classes": " {0:.0f} classes"}
    found = [""] * len(fields["model"])
    for name, text in told.items():
        known: dict[str, set[Any]] = defaultdict(set)
        for model, value in zip(fields["model"], fields[name], strict=True):
            known[model].add(value)
        for row, (model, value) in enumerate(zip(fields["model"], fields[name], strict=True)):
            if value is not None and len(known[model] - {None}) > 1:
                found[row] += text.format(value)
    return found


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
    return np.isfinite(values) & (values >= 0 if name in _SHARES else values > 0)


def _plain(column: pd.Series[Any]) -> list[Any]:
    """The values as Python's own; what is unknown is None."""
    values: Iterable[Any] = column.astype(object).tolist()
    return [None if missing else value for value, missing in zip(values, column.isna(), strict=True)]
