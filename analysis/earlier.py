"""What runs of earlier schemas do not say of themselves, because all were alike in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = 6
"""The first in which runs say it."""

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
