"""A matrix of benchmarks from a TOML file: `python -m jobs.sweep jobs/sweeps/demo.toml`.

Every run is a `bench.run` process of its own. Repeats are interleaved: each goes through all configurations, in an
order of its own, so that a machine that slows down during the sweep slows all of them.

    repeats = 3
    preload = true          # load TensorFlow once and fork the runs: faster, but start-up times are not measured
    [settings]              # flags of every run, as in `python -m bench.run --help`
    device = "cpu"
    [matrix]                # every combination of one value of each axis
    workload = [{ model = "mnist_cnn", dataset = "digits" }, { model = "vgg16_cifar" }]
    num_workers = [1, 2]    # a table sets several flags, anything else the flag that the axis is named after
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXIT_OK, EXIT_USAGE, EXIT_WORKLOAD, EXIT_SIGINT = 0, 2, 4, 130


class SweepError(Exception):
    """The sweep file cannot be used; one line with the remedy."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file: `configurations` are flags and their values, expanded from the matrix."""

    configurations: tuple[Mapping[str, Any], ...]
    repeats: int
    preload: bool

    def runs(self) -> Iterator[Mapping[str, Any]]:
        """Every run, in the order in which they start."""
        for repeat in range(self.repeats):
            order = list(self.configurations)
            random.Random(repeat).shuffle(order)
            yield from order


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run every configuration of a sweep file, one after another, on this machine."""

    file: Annotated[Path, tyro.conf.Positional]
    """The sweep [TOML file]."""
    experiment: str | None = None
    """Name that groups the runs in the store. None is the file's name."""
    results_dir: Path = Path("results/data")
    """Where the tables are kept [path]."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the commands; start nothing."""


def load(path: Path) -> Sweep:
    """Reads and expands a sweep file. Raises SweepError."""
    try:
        spec = tomllib.loads(path.read_text())
    except OSError as error:
        raise SweepError(f"sweep file {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SweepError(f"sweep file {str(path)!r} is not TOML: {error}") from None
    if strangers := sorted(set(spec) - {"repeats", "preload", "settings", "matrix"}):
        raise SweepError(f"{path}: unknown key {strangers[0]!r}; a sweep has repeats, preload, settings and matrix")
    repeats = spec.get("repeats", 1)
    if type(repeats) is not int or repeats < 1:
        raise SweepError(f"{path}: repeats is {repeats!r}; give a whole number of at least 1")
    preload = spec.get("preload", False)
    if type(preload) is not bool:
        raise SweepError(f"{path}: preload is {preload!r}; give true or false")
    settings, matrix = spec.get("settings", {}), spec.get("matrix", {})
    if not isinstance(settings, dict) or not isinstance(matrix, dict):
        raise SweepError(f"{path}: settings and matrix must be tables")
    return Sweep(configurations=tuple(_expand(settings, matrix, path)), repeats=repeats, preload=preload)


def _expand(settings: Mapping[str, Any], matrix: Mapping[str, Any], path: Path) -> Iterator[Mapping[str, Any]]:
    axes = []
    for name in ("experiment", "results_dir"):
        if name in settings or name in matrix:
            raise SweepError(f"{path}: {name} is given on the command line, as --{name.replace('_', '-')}")
    for name, values in matrix.items():
        if not isinstance(values, list) or not values:
            raise SweepError(f"{path}: matrix.{name} is {values!r}; give a list of values")
        axes.append([value if isinstance(value, dict) else {name: value} for value in values])
    for combination in itertools.product(*axes):
        flags = dict(settings)
        for part in combination:
            if twice := set(part) & (set(flags) - set(settings)):
                raise SweepError(f"{path}: two axes of the matrix set {twice.pop()!r}")
            flags.update(part)
        yield flags


def command(flags: Mapping[str, Any], options: Options) -> list[str]:
    """The `bench.run` command of one run."""
    flags = {**flags, "experiment": options.experiment or options.file.stem, "results_dir": options.results_dir}
    words = []
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        words += ([flag] if value else []) if isinstance(value, bool) else [f"{flag}={value}"]
    return [sys.executable, "-m", "bench.run", *words, "--json"]


Runner = Callable[[Sequence[str]], dict[str, Any]]
"""Runs a command of `command` and returns the figures of its last line; where it left none, why."""


@contextmanager
def _fresh() -> Iterator[Runner]:
    """A new Python for each run."""

    def run(words: Sequence[str]) -> dict[str, Any]:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        stdout, interrupted = _until_it_ends(lambda: process.communicate()[0])
        if interrupted:
            raise KeyboardInterrupt
        return _figures(stdout.splitlines(), process.returncode)

    yield run


@contextmanager
def _preloaded() -> Iterator[Runner]:
    """Forks of one process that has loaded TensorFlow (`bench.preload`)."""
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.preload"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    requests, answers = server.stdin, server.stdout

    def run(words: Sequence[str]) -> dict[str, Any]:
        print(json.dumps(list(words[3:])), file=requests, flush=True)
        lines: list[str] = []
        interrupted = False
        while not (lines and lines[-1].startswith('{"exit_code": ')):
            line, again = _until_it_ends(answers.readline)
            interrupted = interrupted or again
            if not line:
                raise SweepError(f"the preloading process died: {lines[-1].strip() if lines else 'no output'}")
            lines.append(line)
        if interrupted:
            raise KeyboardInterrupt
        return _figures(lines[:-1], json.loads(lines[-1])["exit_code"])

    with server:
        yield run
        requests.close()


def _until_it_ends(wait: Callable[[], str]) -> tuple[str, bool]:
    """(what `wait` returns, was there a Ctrl-C). The run gets the same Ctrl-C, stops its workers and records how it
    ended: that takes seconds, and to leave it earlier would lose the record."""
    interrupted = False
    while True:
        try:
            return wait(), interrupted
        except KeyboardInterrupt:
            interrupted = True


def _figures(lines: Sequence[str], exit_code: int) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        summary = {"status": "refused", "error": lines[-1].strip() if lines else f"exit code {exit_code}"}
    return summary


@contextmanager
def _display(total: int, console: Console) -> Iterator[Callable[[str | None], None]]:
    """Yields a function that shows what runs now (a name) or that one has finished (None): a bar with the time left on
    a terminal, nothing elsewhere, where finished runs are lines."""
    if not console.is_terminal:
        yield lambda _name: None
        return
    columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    name_column = TextColumn("{task.description}")
    # Once a second: the display shares the cores with what is being timed.
    with Progress(*columns, name_column, console=console, refresh_per_second=1) as progress:
        task = progress.add_task("", total=total)

        def show(name: str | None) -> None:
            if name is None:
                progress.advance(task)
            else:
                progress.update(task, description=name)

        yield show


def run_all(sweep: Sweep, options: Options, console: Console) -> int:
    """Runs everything; a run that fails stops no other. Returns the sweep's exit code."""
    runs = list(sweep.runs())
    failed = 0
    with _preloaded() if sweep.preload else _fresh() as run, _display(len(runs), console) as show:
        for number, flags in enumerate(runs, start=1):
            name = _name(flags)
            show(name)
            summary = run(command(flags, options))
            ok = summary["status"] == "ok"
            failed += not ok
            said = f"{summary['images_per_s']:.1f} images/s" if ok else f"{summary['status']}: {summary['error']}"
            console.print(f"{number:3d}/{len(runs)} {name}: {said}", markup=False, highlight=False, soft_wrap=True)
            show(None)
    if failed:
        console.print(f"{failed} of {len(runs)} runs failed", markup=False)
    return EXIT_WORKLOAD if failed else EXIT_OK


def _name(flags: Mapping[str, Any]) -> str:
    """What tells this run from the others, for people."""
    main = [str(flags[key]) for key in ("strategy", "model") if key in flags]
    sizes = [f"{key}={flags[key]}" for key in ("num_workers", "devices_per_worker") if key in flags]
    return " ".join(main + sizes) or "run"


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 all ran, 2 usage, 4 some run failed, 130 interrupted."""
    options = tyro.cli(Options, prog="python -m jobs.sweep", args=list(argv))
    try:
        sweep = load(options.file)
    except SweepError as error:
        print(f"jobs.sweep: {error}", file=sys.stderr)
        return EXIT_USAGE
    if options.dry_run:
        for flags in sweep.runs():
            print(" ".join(command(flags, options)))
        return EXIT_OK
    try:
        return run_all(sweep, options, Console())
    except SweepError as error:
        print(f"jobs.sweep: {error}", file=sys.stderr)
        return EXIT_WORKLOAD
    except KeyboardInterrupt:
        print("jobs.sweep: interrupted; finished runs are kept", file=sys.stderr)
        return EXIT_SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
