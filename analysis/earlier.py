"""What runs of earlier schemas do not say of themselves: because all were alike in it, or because nobody asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from results.schema import COMPARABLE_FIELDS, comparability_key

SCHEMA = 6
"""The first in which runs say it."""

_LOADED_SCHEMA = 7
"""The first whose versions of libraries are those of what was loaded, and in which TensorFlow was asked for oneDNN."""

_INSTALLED: Mapping[str, str] = {
    **dict.fromkeys(("cuda_version", "cudnn_version", "nccl_version", "mpi_library"), "false"),
    "horovod_version": "strategy = 'horovod'",
}
"""Field of the provenance that told before what was installed or built for -> where that was loaded, too."""

_LATE = ("onednn",)
"""Comparable fields that earlier runs do not say, and in which they were not alike."""

_SAME: Mapping[str, tuple[Mapping[str, Any], Any]] = {
    "image_size": ({"vgg16": 224, "vgg19": 224, "mnist_cnn": 28}, 32),
    "num_classes": ({"vgg16": 1000, "vgg19": 1000}, 10),
    "cache": ({}, "memory"),
    "phase": ({}, "train"),
    "optimizer": ({}, "sgd"),
    "learning_rate": ({}, 0.01),
}
"""Field of `runs` -> what it was for these models, and for all others."""


def fields(model: str) -> dict[str, Any]:
    """What a run of this model would have said."""
    return {name: models.get(model, others) for name, (models, others) in _SAME.items()}


def expressions() -> str:
    """The same in SQL, for `select * replace (...)` of rows of any schema."""
    return ", ".join(_expression(name, models, others) for name, (models, others) in _SAME.items())


def _expression(name: str, models: Mapping[str, Any], others: Any) -> str:
    cases = "".join(f" when model = '{model}' then {value!r}" for model, value in models.items())
    return f"case when schema_version >= {SCHEMA} then {name}{cases} else {others!r} end as {name}"


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


def settle(frames: Sequence[pd.DataFrame], *, by_recorded: bool) -> None:
    """Give runs that do not say a field of _LATE what those say that equal them in all other comparable fields, if
    they are of one mind: what was not recorded keeps no runs apart. Computes the frames' `comparability_key` anew.

    `by_recorded`: only rows of the schemas that record it count, and not what a variable asked for.
    """
    others = [name for name in COMPARABLE_FIELDS if name not in _LATE]
    rows = [_values(frame, others) for frame in frames]
    for field in _LATE:
        known: dict[tuple[Any, ...], set[Any]] = {}
        for frame, keys in zip(frames, rows, strict=True):
            counts = frame["schema_version"] >= _LOADED_SCHEMA if by_recorded else frame[field].notna()
            for key, value, counted in zip(keys, frame[field], counts, strict=True):
                if counted and value is not None:
                    known.setdefault(key, set()).add(value)
        agreed = {key: next(iter(values)) for key, values in known.items() if len(values) == 1}
        for frame, keys in zip(frames, rows, strict=True):
            values = [
                agreed.get(key) if value is None else value for key, value in zip(keys, frame[field], strict=True)
            ]
            frame[field] = pd.Series(values, dtype=object, index=frame.index)
    for frame in frames:
        frame["comparability_key"] = [_key(row) for row in _values(frame, COMPARABLE_FIELDS)]


def _values(frame: pd.DataFrame, fields: Sequence[str]) -> list[tuple[Any, ...]]:
    columns = frame[list(fields)].astype(object)
    return [tuple(row) for row in columns.where(columns.notna(), None).to_numpy()]


@lru_cache(maxsize=4096)
def _key(values: tuple[Any, ...]) -> str:
    return comparability_key(dict(zip(COMPARABLE_FIELDS, values, strict=True)))
