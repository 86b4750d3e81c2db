"""Slurm's notation for host names: `node[2,9-11],gpu01` -> node2, node9, node10, node11, gpu01.

A parser of our own because the order matters (it is the order of the ranks) and because `scontrol`, which knows it too,
is missing inside containers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from jobs.cluster import ClusterError

_NAME = re.compile(r"(?:[^][,\s]|\[[0-9,-]+\])+")
"""One entry of a list: text with any number of bracketed sets of numbers in it."""
_PART = re.compile(r"\[([0-9,-]+)\]|([^][]+)")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_MOST_HOSTS = 1 << 16


def expand(text: str) -> list[str]:
    """The host names in the order in which `text` names them. Raises ClusterError."""
    names: list[str] = []
    position = 0
    if not text.isprintable():
        raise _Malformed(text)
    while position == 0 or position <= len(text):
        entry = _NAME.match(text, position)
        if entry is None or text[entry.end() : entry.end() + 1] not in ("", ","):
            raise _Malformed(text)
        parts, count = [], 1
        for numbers, word in _PART.findall(entry.group()):
            parts.append(_numbers(numbers, text) if numbers else [word])
            count *= len(parts[-1])
            if len(names) + count > _MOST_HOSTS:
                raise ClusterError(f"the node list {text[:80]!r} names more than {_MOST_HOSTS} hosts")
        names += map("".join, itertools.product(*parts))
        position = entry.end() + 1
    return names


def _numbers(ranges: str, text: str) -> list[str]:
    return list(itertools.islice(_each(ranges, text), _MOST_HOSTS + 1))


def _each(ranges: str, text: str) -> Iterator[str]:
    for word in ranges.split(","):
        found = _RANGE.fullmatch(word)
        if not found:
            raise _Malformed(text)
        first, last = found.group(1), found.group(2) or found.group(1)
        if int(last) < int(first):
            raise _Malformed(text)
        # The first number's zeros are the width of all: [08-10] is 08, 09, 10.
        yield from (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))


class _Malformed(ClusterError):
    def __init__(self, text: str) -> None:
        super().__init__(f"the node list {text[:80]!r} is malformed: Slurm writes it like node[2,9-11],gpu01")
