"""How a run is started in an allocation, and the batch scripts that do it: made to be read and kept."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jobs.site import Site
from results.command_line import Refused
from results.text import printable

MARKER = "== "
"""Begins the line that a script prints before each run: the run's task and its name."""

STEP_NAME = "--job-name="
"""How srun is told the name of a step, by which it is found again."""

_PATHS = ("data_dir", "config", "weights", "save_model", "evidence", "timeline")
"""Flags of bench.run whose values are paths, besides --results-dir."""

_WIDTH = 100
_LONGEST_NAME = 150
_PLAIN = re.compile(r"[\w.,:/=@%+-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run of a script: `words` follow `python`."""

    task: str
    name: str
    nodes: int
    tasks_per_node: int
    words: Sequence[str]
    folders: Sequence[Path]
    """What the run must see where it runs in a container, the results directory first."""


def paths_of(setting: Callable[[str], object]) -> dict[str, Path]:
    """The flags of a run that are paths: `setting` of a name is what its command line says, None where it says nothing.
    Absolute, because a container begins in the results directory."""
    given = {name: setting(name) for name in _PATHS}
    return {name: Path(str(path)).absolute() for name, path in given.items() if path}


def folders_of(results: Path, paths: Mapping[str, Path]) -> list[Path]:
    """What a run with these `paths_of` it must see, of what it makes itself the folder above."""
    return [results, *(path if name == "data_dir" else path.parent for name, path in paths.items())]


def folder_name(name: str) -> str:
    """A folder of its own for each name: no place elsewhere, and not longer than file systems take."""
    quoted = quote(name, safe="").replace(".", "%2E") if name.startswith(".") else quote(name, safe="")
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    return f"{quoted[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def launch_words(step: Step, site: Site) -> list[str]:
    """The command that starts a run in an allocation, one process a task."""
    if site.launcher == "mpirun":
        tasks = str(step.nodes * step.tasks_per_node)
        launch = ["mpirun", "-np", tasks, "--map-by", f"ppr:{step.tasks_per_node}:node", "--bind-to", "none"]
    else:
        # Without --kill-on-bad-exit the other tasks of a failed one would run on.
        launch = ["srun", "--kill-on-bad-exit=1", f"{STEP_NAME}{step.name}"]
        launch += [f"--nodes={step.nodes}", f"--ntasks-per-node={step.tasks_per_node}"]
        launch += [f"--cpus-per-task={site.cpus_per_task}"] if site.cpus_per_task else []
        launch += [f"--mpi={site.mpi}"] if site.mpi else []
    if site.container is None:
        return [*launch, site.python or sys.executable, *step.words]
    folders = [*dict.fromkeys(str(folder.absolute()) for folder in step.folders), *site.bind]
    inside = [site.container_command, "exec", "--nv", *(f"--bind={folder}" for folder in folders)]
    inside += [f"--pwd={folders[0]}", str(site.container.absolute())]
    return [*launch, *inside, site.python or "python", *step.words]


def render(steps: Sequence[Step], site: Site, *, name: str, output: str, finished: Path | None, made_by: str) -> str:
    """The batch script of a job that performs the steps one after another and goes on where one fails.

    `output`: where Slurm writes what the job says, with its own placeholders. `finished`: a file in which the script
    keeps the tasks that are done, so that a job that Slurm starts again does not repeat them. Raises Refused for what
    cannot stand in a script.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jobs"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 a shell script: every value goes through the quoting below
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    commands = [(step, _wrapped(launch_words(step, site))) for step in steps]
    return environment.get_template("job.sh.j2").render(
        options=[_option(word) for word in _options(steps, site, name, output)],
        site=site,
        commands=commands,
        finished=finished,
        marker=MARKER,
        made_by=printable(made_by),
    )


def _options(steps: Sequence[Step], site: Site, name: str, output: str) -> Iterable[str]:
    yield f"--job-name={name}"
    yield f"--nodes={max(step.nodes for step in steps)}"
    yield f"--ntasks-per-node={max(step.tasks_per_node for step in steps)}"
    yield f"--output={output}"
    for option in ("partition", "account", "qos", "time", "constraint", "gres", "cpus_per_task"):
        if (value := getattr(site, option)) is not None:
            yield f"--{option.replace('_', '-')}={value}"
    if not site.shared:
        yield "--exclusive"
    if site.warn_s:
        yield f"--signal=USR1@{site.warn_s}"
    yield from site.extra_sbatch


def _option(word: str) -> str:
    """A word as sbatch reads it from a #SBATCH line: it knows double quotes and backslashes, and no other shell."""
    if not word.isprintable():
        raise Refused(f"{word!r} cannot stand in a job script: give printable text on one line")
    if _PLAIN.fullmatch(word):
        return word
    flag, equals, value = word.partition("=")
    escaped = re.sub(r'(["\\])', r"\\\1", value if equals else word)
    return f'{flag}="{escaped}"' if equals else f'"{escaped}"'


def _wrapped(words: Sequence[str]) -> str:
    """A command on lines of its own, each word quoted for the shell."""
    lines = [""]
    for word in map(shlex.quote, words):
        if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n        ".join(lines)
