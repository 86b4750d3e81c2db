"""What ran where, and what of it changed between two sets of runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from analysis.text import some

NAMES = ("hostname", "git_commit", "git_dirty")
"""They differ between any two sets of runs and say little by themselves, so they are told last."""

_SHOWN = 3
"""Values of one field in a line."""


@lru_cache(maxsize=4096)
def machine(text: str) -> Mapping[str, Any]:
    """`Results.runs.machine` of one run: the fields that were recorded, the GPUs as counts and settings, variables by
    their names.

    Empty for a run that never began.
    """
    held = json.loads(text)
    gpus = held.pop("gpus", None) or []
    if gpus:
        held["gpus"] = ", ".join(sorted({f"{gpu['name']}" for gpu in gpus})) + f" x{len(gpus)}"
        for name, unit in (("max_sm_clock_mhz", "MHz"), ("power_limit_w", "W")):
            values = sorted({gpu[name] for gpu in gpus if gpu.get(name) is not None})
            held[f"gpu_{name}"] = ", ".join(f"{value:g} {unit}" for value in values) or None
    variables = held.pop("environment", None) or {}
    return {name: value for name, value in held.items() if value is not None} | variables


def machines(texts: Iterable[str]) -> list[dict[str, Any]]:
    """The distinct machines and versions of runs, most frequent first, with their number of `runs`."""
    counted: dict[str, int] = {}
    for text in texts:
        counted[text] = counted.get(text, 0) + 1
    known = {text: dict(machine(text)) for text in counted}
    return [
        {"runs": counted[text], **known[text]}
        for text in sorted(counted, key=counted.__getitem__, reverse=True)
        if known[text]
    ]


def changes(before: Iterable[str], after: Iterable[str]) -> dict[str, tuple[str, str]]:
    """field -> (values before, values after) of what differs between two sets of runs; '-' where it is unknown."""
    old, new = _values(before), _values(after)
    names = [*dict.fromkeys([*old, *new])]
    differ = {name: (old.get(name, "-"), new.get(name, "-")) for name in names if old.get(name) != new.get(name)}
    return {name: differ[name] for name in sorted(differ, key=NAMES.__contains__)}


def told(changed: Mapping[str, tuple[str, str]]) -> str:
    """The changes in a line."""
    return "; ".join(f"{name}: {old} -> {new}" for name, (old, new) in changed.items())


def _values(texts: Iterable[str]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for text in {*texts}:
        for name, value in machine(text).items():
            found.setdefault(name, set()).add(str(value))
    return {name: some(sorted(values), _SHOWN) for name, values in found.items()}
