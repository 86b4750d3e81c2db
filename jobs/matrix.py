"""A sweep file, a matrix of benchmarks in TOML, and the runs that it means.

    repeats = 3
    preload = true          # load TensorFlow once and fork the runs: faster, but start-up times are not measured
    exclude = [{ strategy = ["single", "mirrored"], nodes = [2, 4] }]   # leaves out what has one of these values each
    [settings]              # flags of every run, as in `python -m bench.run --help`
    device = "cpu"
    [matrix]                # every combination of one value of each axis
    workload = [{ model = "mnist_cnn", dataset = "digits" }, { model = "vgg16_cifar" }]
    nodes = [1, 2, 4]       # a table sets several flags, anything else the flag that the axis is named after
    tasks_per_node = 1

`nodes` and `tasks_per_node` are no flags: they say how a run is started. Tasks are all processes, those of `ps` that
train nothing counted in.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.command_line import Refused, read_toml, words_of

_KEYS = ("repeats", "preload", "exclude", "settings", "matrix")
_LAUNCH = ("nodes", "tasks_per_node")
_RESERVED = ("experiment", "results_dir", "sweep_task", "num_processes")
_SAID_PLAINLY = ("strategy", "model", "precision")
"""What a name tells by its value alone."""
_LETTERS = {"batch_size": "b", "global_batch_size": "g", "num_workers": "w", "devices_per_worker": "d"}
"""What a name tells by a letter and its value."""
_MOST_RUNS = 100_000
"""Of a sweep; at ten seconds each that is more than a week."""
_FLAG = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What is measured: flags of `bench.run`, and on how many tasks."""

    name: str
    """For people and file names; different for each configuration of a sweep."""
    key: str
    """16 hex digits over everything below: the same run of an edited sweep file keeps it, another never has it."""
    flags: Mapping[str, Any]
    nodes: int
    tasks_per_node: int

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True)
class Run:
    """One of the repeats of a configuration."""

    configuration: Configuration
    repeat: int

    @property
    def task(self) -> str:
        """By which the store knows it."""
        return f"{self.configuration.key}-{self.repeat}"

    @property
    def name(self) -> str:
        return f"{self.configuration.name}, repeat {self.repeat}"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file, expanded."""

    configurations: tuple[Configuration, ...]
    repeats: int
    preload: bool

    def runs(self) -> Iterator[Run]:
        """Every run, in the order in which they start: each repeat goes through all configurations, in an order of its
        own, so that a machine that slows down during the sweep slows all of them."""
        for repeat in range(1, self.repeats + 1):
            order = list(self.configurations)
            random.Random(repeat).shuffle(order)
            yield from (Run(configuration, repeat) for configuration in order)


def load(path: Path) -> Sweep:
    """Reads and expands a sweep file. Raises Refused."""
    spec = read_toml(path, "sweep file")
    if strangers := sorted(set(spec) - set(_KEYS)):
        raise Refused(f"{path}: unknown key {strangers[0]!r}; a sweep has {', '.join(_KEYS)}")
    repeats = spec.get("repeats", 1)
    if type(repeats) is not int or repeats < 1:
        raise Refused(f"{path}: repeats is {repeats!r}; give a whole number of at least 1")
    preload = spec.get("preload", False)
    if type(preload) is not bool:
        raise Refused(f"{path}: preload is {preload!r}; give true or false")
    settings, matrix, exclude = spec.get("settings", {}), spec.get("matrix", {}), spec.get("exclude", [])
    if not isinstance(settings, dict) or not isinstance(matrix, dict):
        raise Refused(f"{path}: settings and matrix must be tables")
    if not isinstance(exclude, list) or not all(isinstance(rule, dict) and rule for rule in exclude):
        raise Refused(f"{path}: exclude is {exclude!r}; give a list of tables")
    settings, axes = _flags(settings, "settings", path), [_axis(*each, path) for each in matrix.items()]
    if (most := repeats * math.prod(map(len, axes))) > _MOST_RUNS:
        raise Refused(f"{path}: {most} runs; a sweep has at most {_MOST_RUNS}: make several")
    found = list(_expand(settings, axes, path))
    for rule in exclude:
        wanted = {name.replace("-", "_"): value for name, value in rule.items()}
        kept = [each for each in found if not _fits(each, wanted)]
        if len(kept) == len(found):
            raise Refused(f"{path}: exclude {rule} fits no configuration: leave it out, or see --dry-run")
        found = kept
    if not found:
        raise Refused(f"{path}: every configuration is excluded")
    return Sweep(configurations=tuple(_named(found, path)), repeats=repeats, preload=preload)


def _axis(name: str, given: Any, path: Path) -> list[dict[str, Any]]:
    """What an axis of the matrix sets, one value after another."""
    values = given if isinstance(given, list) else [given]
    if not values:
        raise Refused(f"{path}: matrix.{name} is empty; give a value, or a list of them")
    tables = [value if isinstance(value, dict) else {name: value} for value in values]
    return [_flags(table, f"matrix.{name}", path) for table in tables]


def _flags(table: Mapping[str, Any], where: str, path: Path) -> dict[str, Any]:
    """Flags and their values, by the names that they have in Python."""
    flags: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if not _FLAG.fullmatch(key) or name in flags:
            raise Refused(f"{path}: {where!r} sets {key!r}, give flags such as num_iters there, each once")
        if isinstance(value, dict | list):
            raise Refused(f"{path}: {where}: {key} is {value!r}; a setting has one value")
        flags[name] = value
    return flags


def _expand(
    settings: Mapping[str, Any], axes: Sequence[Sequence[Mapping[str, Any]]], path: Path
) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*axes):
        flags = dict(settings)
        for part in combination:
            if twice := set(part) & (set(flags) - set(settings)):
                raise Refused(f"{path}: two axes of the matrix set {twice.pop()!r}")
            flags.update(part)
        yield flags


def _fits(flags: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    return all(flags.get(name) in (value if isinstance(value, list) else [value]) for name, value in rule.items())


def _named(found: Sequence[dict[str, Any]], path: Path) -> Iterator[Configuration]:
    texts = [json.dumps(flags, sort_keys=True, default=str) for flags in found]
    values: dict[str, set[str]] = {}
    for flags in found:
        for name, value in flags.items():
            values.setdefault(name, set()).add(str(value))
    varied = {name for name, seen in values.items() if len(seen) > 1 or any(name not in flags for flags in found)}
    short = varied & {*_LAUNCH, *_SAID_PLAINLY, *_LETTERS}
    names = [_name(flags, short) for flags in found]
    if len(set(names)) < len(names):
        names = [_name(flags, varied) for flags in found]
    again = Counter(names)
    keys = set()
    for flags, text, name in zip(found, texts, names, strict=True):
        for reserved in _RESERVED:
            if reserved in flags:
                raise Refused(f"{path}: {reserved} is not for a sweep file: jobs.sweep gives it to every run")
        launch = {}
        for part in _LAUNCH:
            launch[part] = flags.get(part, 1)
            if type(launch[part]) is not int or launch[part] < 1:
                raise Refused(f"{path}: {part} is {launch[part]!r}; give whole numbers of at least 1")
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if key in keys:
            raise Refused(f"{path}: the matrix holds {name} twice")
        keys.add(key)
        yield Configuration(
            name=name if again[name] == 1 else f"{name}-{key[:6]}",
            key=key,
            flags={name: value for name, value in flags.items() if name not in _LAUNCH},
            **launch,
        )


def _name(flags: Mapping[str, Any], varied: set[str]) -> str:
    """What tells a configuration from the others: strategy and model, size, and what else of `varied` it has."""
    words = [str(flags[name]) for name in _SAID_PLAINLY if name in flags and (name in varied or name != "precision")]
    if varied & set(_LAUNCH):
        words.append(f"{flags.get('nodes', 1)}x{flags.get('tasks_per_node', 1)}")
    rest = sorted(varied - {*_LAUNCH, *_SAID_PLAINLY, "dataset"})
    words += [f"{_LETTERS.get(name, name)}{flags[name]}" for name in rest if name in flags]
    return re.sub(r"[^\w.+-]+", "_", "-".join(words), flags=re.ASCII)[:100] or "run"


def benchmark_words(run: Run, experiment: str, results_dir: Path) -> list[str]:
    """The words after `python` that perform a run: one process of it where a launcher starts all, else all of them."""
    flags = {**run.configuration.flags, "experiment": experiment, "results_dir": results_dir, "sweep_task": run.task}
    words = ["-m", "bench.run"]
    for name, value in flags.items():
        words += words_of(name, value)
    return [*words, "--json"]
