"""What runs of earlier schemas do not say of themselves: because all were alike in it, or because nobody asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pandas as pd

from results.schema import COMPARABLE_FIELDS, comparability_key

_LOADED_SCHEMA = 7
"""The first whose versions of libraries are those of what was loaded, and in which TensorFlow was asked for oneDNN."""

_INSTALLED: Mapping[str, str] = {
    **dict.fromkeys(("cuda_version", "cudnn_version", "nccl_version", "mpi_library"), "false"),
    "horovod_version": "strategy = 'horovod'",
}
"""Field of the provenance that told before what was installed or built for -> where that was loaded, too."""

_LATE = ("onednn",)
"""Comparable fields that earlier runs do not say, and in which they were not alike."""


@dataclass(frozen=True)
class _Same:
    """A field in which all runs of a model were alike until they said it."""

    since: int
    """The first schema that has the field."""
    others: Any
    models: Mapping[str, Any] = field(default_factory=dict)
    """Models for which it was not `others`."""


_SAME: Mapping[str, _Same] = {
    "image_size": _Same(6, 32, {"vgg16": 224, "vgg19": 224, "mnist_cnn": 28}),
    "num_classes": _Same(6, 10, {"vgg16": 1000, "vgg19": 1000}),
    "cache": _Same(6, "memory"),
    "phase": _Same(6, "train"),
    "optimizer": _Same(6, "sgd"),
    "learning_rate": _Same(6, 0.01),
    "measurement_version": _Same(7, 1),
}

_RING_AS_NCCL: Mapping[str, str] = {"strategy": "mwms", "device_kind": "gpu", "requested_all_reduce": "auto"}
_RING_AS_NCCL_UNTIL = 2
"""Runs with these fields, before this measurement version, recorded that NCCL had reduced. TensorFlow takes NCCL where
the communication options name it (`AssignCollectiveType` of its collective parameter resolver); else its ring."""


def fields(schema_version: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run of a saved baseline, with those that it would have said."""
    same = {name: each for name, each in _SAME.items() if schema_version < each.since}
    run = {**{name: each.models.get(row["model"], each.others) for name, each in same.items()}, **row}
    return {**run, "actual_all_reduce": None} if recorded_ring_as_nccl(run) else run


def recorded_ring_as_nccl(run: Mapping[str, Any]) -> bool:
    """Whether a run was reduced by TensorFlow's ring and recorded NCCL, so that its `actual_all_reduce` is read as
    null; `run` has the columns of a row of `runs`."""
    alike = all(run.get(name) == value for name, value in _RING_AS_NCCL.items())
    return alike and (run.get("num_devices") or 0) > 1 and run["measurement_version"] < _RING_AS_NCCL_UNTIL


def expressions() -> str:
    """The same in SQL, for `select * replace (...)` of rows of any schema."""
    columns = {name: _expression(name, each) for name, each in _SAME.items()}
    alike = " and ".join(f"{name} = {value!r}" for name, value in _RING_AS_NCCL.items())
    wrong = f"{alike} and {columns['measurement_version']} < {_RING_AS_NCCL_UNTIL}"
    columns["actual_all_reduce"] = f"case when {wrong} then null else actual_all_reduce end"
    return ", ".join(f"{expression} as {name}" for name, expression in columns.items())


def _expression(name: str, same: _Same) -> str:
    cases = "".join(f" when model = '{model}' then {value!r}" for model, value in same.models.items())
    return f"case when schema_version >= {same.since} then {name}{cases} else {same.others!r} end"


def recorded(field: str) -> str:
    """A field of the provenance in SQL, null where it says something else in rows of earlier schemas."""
    name = f"provenance.{field}"
    if field not in _INSTALLED:
        return name
    return f"case when schema_version >= {_LOADED_SCHEMA} or {_INSTALLED[field]} then {name} end"


def of_baseline(schema_version: int, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a machine of a saved baseline."""
    hidden = _INSTALLED if schema_version < _LOADED_SCHEMA else ()
    return {name: value for name, value in machine.items() if name not in hidden}


def onednn(recorded_state: Any, environment: str | None) -> bool | None:
    """Whether a run computed with oneDNN: as it recorded, or as its variable asked for; None where it says neither.
    `environment` as JSON."""
    if recorded_state is not None and not pd.isna(recorded_state):
        return bool(recorded_state)
    return {"0": False, "1": True}.get(json.loads(environment or "{}").get("TF_ENABLE_ONEDNN_OPTS", ""))


def settle(frames: Sequence[pd.DataFrame], *, by_recorded: bool, across: Sequence[str] = ()) -> None:
    """Give runs that do not say a field of _LATE what those say that equal them in all other comparable fields, the
    measurement version and `across` apart, if they are of one mind: what was not recorded keeps no runs apart.
    Computes the frames' `comparability_key` anew.

    `by_recorded`: only rows of the schemas that record it count, and not what a variable asked for.
    """
    others = [name for name in COMPARABLE_FIELDS if name not in (*_LATE, "measurement_version", *across)]
    rows = [_values(frame, others) for frame in frames]
    for name in _LATE:
        known: dict[tuple[Any, ...], set[Any]] = {}
        for frame, keys in zip(frames, rows, strict=True):
            counts = frame["schema_version"] >= _LOADED_SCHEMA if by_recorded else frame[name].notna()
            for key, value, counted in zip(keys, frame[name], counts, strict=True):
                if counted and value is not None:
                    known.setdefault(key, set()).add(value)
        agreed = {key: next(iter(values)) for key, values in known.items() if len(values) == 1}
        for frame, keys in zip(frames, rows, strict=True):
            values = [agreed.get(key) if value is None else value for key, value in zip(keys, frame[name], strict=True)]
            frame[name] = pd.Series(values, dtype=object, index=frame.index)
    for frame in frames:
        frame["comparability_key"] = [_key(row) for row in _values(frame, COMPARABLE_FIELDS)]


def _values(frame: pd.DataFrame, fields: Sequence[str]) -> list[tuple[Any, ...]]:
    columns = frame[list(fields)].astype(object)
    return [tuple(row) for row in columns.where(columns.notna(), None).to_numpy()]


@lru_cache(maxsize=4096)
def _key(values: tuple[Any, ...]) -> str:
    return comparability_key(dict(zip(COMPARABLE_FIELDS, values, strict=True)))
