"""Prints the batch script of one benchmark: `python -m jobs.render --nodes 2 -- --strategy mwms`.

What follows `--` is for `bench.run`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from jobs.script import Step, folders_of, paths_of, render
from jobs.site import Site, profile_words
from results import command_line
from results.command_line import Refused, value_of, words_of


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print a batch script for Slurm that performs one benchmark; its flags follow --."""

    name: str = "trainscale"
    """The job's name."""
    nodes: int = 1
    """Nodes of the job [nodes]."""
    tasks_per_node: int = 1
    """Processes on each of them [processes]."""
    output: str = "%x-%j.out"
    """Where Slurm writes what the job says, as sbatch's --output [path]."""
    site: Path | None = None
    """Site profile [TOML file]. None is ~/.config/trainscale/site.toml, if there is one."""
    settings: OmitArgPrefixes[Site] = field(default_factory=Site)

    def __post_init__(self) -> None:
        for name in ("nodes", "tasks_per_node"):
            if getattr(self, name) < 1:
                raise Refused(f"{command_line.flag(name)} is {getattr(self, name)}: give a whole number of at least 1")


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0, or 2 for usage."""
    cut = argv.index("--") if "--" in argv else len(argv)
    ours, theirs = list(argv[:cut]), list(argv[cut + 1 :])
    try:
        options = command_line.parse(Options, "python -m jobs.render", [*profile_words(ours), *ours])
        results = Path(value_of(theirs, "results_dir") or "results/data").absolute()
        paths = paths_of(lambda name: value_of(theirs, name))
        absolute = [word for name, path in {**paths, "results_dir": results}.items() for word in words_of(name, path)]
        step = Step(
            task=options.name,
            name=options.name,
            nodes=options.nodes,
            tasks_per_node=options.tasks_per_node,
            words=["-m", "bench.run", *theirs, *absolute],  # of a flag that is there twice the last counts
            folders=folders_of(results, paths),
        )
        made_by = shlex.join(["python", "-m", "jobs.render", *argv])
        text = render(
            [step], options.settings, name=options.name, output=options.output, finished=None, made_by=made_by
        )
    except Refused as error:
        return command_line.complain("jobs.render", error, error.exit_code)
    with command_line.outliving_readers():
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
