"""A matrix of benchmarks from a TOML file (`jobs.matrix` has its form): `python -m jobs.sweep jobs/sweeps/quick.toml`.

Every run is a `bench.run` of its own: here, as steps of the allocation that this process is in, or with --submit as
Slurm jobs. The store knows which runs are done, so the same command continues a sweep that was cut off.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from rich.console import Console
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from jobs import lock, runners, slurm
from jobs.matrix import Run, Sweep, benchmark_words, load
from jobs.progress import progress
from jobs.runners import Figures, RunnerDied
from jobs.script import Step, folder_name, folders_of, launch_words, paths_of
from jobs.site import Site, profile_words
from jobs.slurm import SlurmFault
from jobs.submission import Submission, grouped
from results import command_line
from results.command_line import Refused
from results.exit_codes import ExitCode
from results.schema import RUN_TABLES, SCHEMA_VERSION
from results.store import Store, StoreError, new_run_id


@dataclass(frozen=True, kw_only=True)
class Options:
    """Perform every run of a sweep file that the store does not hold yet."""

    file: Positional[Path]
    """The sweep [TOML file]."""
    experiment: str | None = None
    """Name that groups the runs in the store; runs that it has are not repeated. None is the file's name."""
    results_dir: Path = Path("results/data")
    """Where the tables are kept [path]."""
    only: str = "*"
    """Names of the configurations to run, with * and ?, as --dry-run lists them."""
    max_nodes: int | None = None
    """Leave out configurations that need more nodes [nodes]."""
    max_repeats: int | None = None
    """Leave out the repeats after these many [repeats]."""
    retries: int = 1
    """How often a run that failed is tried again, after all others."""
    dry_run: FlagCreatePairsOff[bool] = False
    """List the configurations, commands and job scripts; start nothing."""
    here: FlagCreatePairsOff[bool] = False
    """Run on this machine even inside an allocation."""
    submit: FlagCreatePairsOff[bool] = False
    """Submit Slurm jobs and watch them; when interrupted they go on, and the same command watches them again."""
    job_per: Literal["nodes", "configuration"] = "nodes"
    """What shares a job: configurations of as many nodes, repeats interleaved, or the repeats of one configuration."""
    max_queued: int = 20
    """Jobs in the queue at once [jobs]."""
    scripts: Path = Path("results/jobs")
    """Where job scripts and their output are kept [path]."""
    site: Path | None = None
    """Site profile [TOML file]. None is ~/.config/trainscale/site.toml, if there is one."""
    settings: OmitArgPrefixes[Site] = field(default_factory=Site)

    def __post_init__(self) -> None:
        for name, least in (("max_nodes", 1), ("max_repeats", 1), ("retries", 0), ("max_queued", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise Refused(f"{command_line.flag(name)} is {value}: give a whole number of at least {least}")
        if self.submit and self.here:
            raise Refused("--submit and --here exclude each other: give one of them")

    @property
    def name(self) -> str:
        return self.experiment or self.file.stem


def wanted(sweep: Sweep, options: Options) -> list[Run]:
    """The runs that the command line asks for. Raises Refused where it leaves none."""
    max_nodes, max_repeats = options.max_nodes or sys.maxsize, options.max_repeats or sys.maxsize
    runs = [
        run
        for run in sweep.runs()
        if fnmatch.fnmatchcase(run.configuration.name, options.only)
        and run.configuration.nodes <= max_nodes
        and run.repeat <= max_repeats
    ]
    if not runs:
        raise Refused(f"--only {options.only!r} and --max-nodes leave no configuration: see --dry-run")
    return runs


def unfinished(runs: Sequence[Run], finished: set[str]) -> list[Run]:
    """Those that the store does not hold."""
    return [run for run in runs if run.task not in finished]


def to_do(sweep: Sweep, options: Options) -> list[Run]:
    """Those of the wanted runs that are left to do."""
    everything = wanted(sweep, options)
    runs = unfinished(everything, Store(options.results_dir).finished_tasks(options.name))
    if done := len(everything) - len(runs):
        print(f"{done} of {len(everything)} runs of experiment {options.name!r} are done already")
    return runs


def step_of(run: Run, options: Options) -> Step:
    """A run as a step of an allocation."""
    configuration = run.configuration
    results = options.results_dir.absolute()
    paths = paths_of(configuration.flags.get)
    absolute = replace(run, configuration=replace(configuration, flags={**configuration.flags, **paths}))
    return Step(
        task=run.task,
        name=run.name,
        nodes=configuration.nodes,
        tasks_per_node=configuration.tasks_per_node,
        words=benchmark_words(absolute, options.name, results),
        folders=folders_of(results, paths),
    )


def command_of(run: Run, options: Options, *, inside: bool) -> list[str]:
    """The command of a run `inside` an allocation, or on this machine, where it starts all processes itself."""
    if inside:
        return launch_words(step_of(run, options), options.settings)
    tasks = run.configuration.tasks
    together = [f"--num-processes={tasks}"] if tasks > 1 else []
    return [sys.executable, *benchmark_words(run, options.name, options.results_dir), *together]


def run_all(runs: Sequence[Run], sweep: Sweep, options: Options, console: Console) -> int:
    """Performs the runs here or in steps; one that fails stops no other. Returns the sweep's exit code."""
    inside = None if options.here else slurm.nodes_of_allocation(os.environ)
    most = inside or 1
    if over := sorted({run.configuration.nodes for run in runs if run.configuration.nodes > most}):
        where = f"this allocation has {inside}" if inside else "this is one machine"
        raise Refused(
            f"{options.file}: some configurations need {over[-1]} nodes but {where}: allocate them (salloc), submit "
            f"jobs (--submit), or leave them out (--max-nodes {most})"
        )
    runner = runners.steps() if inside else runners.preloaded() if sweep.preload else runners.fresh()
    with runner as perform, progress(len(runs), console) as tally:
        if inside and sweep.preload:
            tally.say("preload = true is for runs on one machine: steps load TensorFlow anew")
        for turn, again in tally.turns(runs, options.retries):
            for run in turn:
                tally.begin(run)
                tally.end(run, perform(command_of(run, options, inside=bool(inside))), again=again)
    return conclude(tally.failed, len(runs), console)


def conclude(failed: int, total: int, console: Console) -> int:
    """The last line and the exit code."""
    if failed:
        console.print(f"{failed} of {total} runs failed", markup=False)
    return ExitCode.WORKLOAD if failed else ExitCode.OK


def submit_all(runs: Sequence[Run], options: Options, argv: Sequence[str], console: Console) -> int:
    """Performs the runs as Slurm jobs. Returns the sweep's exit code."""
    unheard: dict[str, Figures] = {}
    with progress(len(runs), console) as tally:
        submission = _submission(options, argv, tally.say)
        by_task = {run.task: run for run in runs}
        try:
            adopted = submission.adopt(runs)
            for turn, again in tally.turns(runs, options.retries):
                groups = grouped([run for run in turn if run.task not in adopted], options.job_per)
                for run, figures, hopeless in submission.perform(groups, by_task, options.max_queued):
                    unheard.pop(run.task, None)
                    if figures["status"] not in ("ok", "refused") and "run_id" not in figures:
                        unheard[run.task] = figures
                    tally.end(run, figures, again=again and not hopeless)
                adopted = set()
        except KeyboardInterrupt:
            jobs = ", ".join(submission.live)
            tally.say(f"jobs that go on: {jobs or 'none'}; the same command continues, scancel ends them")
            raise
    store = Store(options.results_dir)
    for task, figures in unheard.items():
        record_unheard(store, by_task[task], options.name, figures)
    return conclude(tally.failed, len(runs), console)


def _submission(options: Options, argv: Sequence[str], say: Callable[[str], None]) -> Submission:
    return Submission(
        options.scripts / folder_name(options.name),
        options.settings,
        step_of=lambda run: step_of(run, options),
        made_by=["python", "-m", "jobs.sweep", *argv],
        say=say,
    )


def record_unheard(store: Store, run: Run, experiment: str, figures: Figures) -> None:
    """Keeps a row of a run that could leave none, because its job ended before."""
    flags, now = run.configuration.flags, datetime.now(timezone.utc)
    run_id = new_run_id(now)
    row = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "experiment": experiment,
        "label": run.name,
        "sweep_task": run.task,
        "started_at": now,
        "ended_at": now,
        "status": figures["status"],
        "exit_code": ExitCode.WORKLOAD,
        "error": figures["error"],
        **{name: str(flags[name]) for name in ("strategy", "model", "dataset", "precision") if name in flags},
        "num_nodes": run.configuration.nodes,
        "num_processes": run.configuration.tasks,
        "config": json.dumps(dict(flags), sort_keys=True, default=str),
        "null_reasons": dict.fromkeys(("num_devices", "num_params", "device_name"), "the run told nothing"),
        "provenance": {},
    }
    store.prepare()
    store.commit(run_id, now, {table: [row] if table == "runs" else [] for table in RUN_TABLES})


def describe(runs: Sequence[Run], options: Options, argv: Sequence[str]) -> None:
    """What --dry-run prints."""
    inside = not options.here and slurm.nodes_of_allocation(os.environ)
    for run in runs:
        print(f"{run.name}: {shlex.join(command_of(run, options, inside=options.submit or bool(inside)))}")
    if options.submit:
        submission = _submission(options, argv, print)
        for name, group in grouped(runs, options.job_per).items():
            print(f"\n{submission.script(group, name)}", end="")


def _perform(argv: Sequence[str], console: Console) -> int:
    options = command_line.parse(Options, "python -m jobs.sweep", [*profile_words(argv), *argv])
    sweep = load(options.file)
    if options.dry_run:
        describe(to_do(sweep, options), options, argv)
        return ExitCode.OK
    store = Store(options.results_dir)
    store.prepare()
    with lock.held(store.open_sweep_lock(options.name), f"experiment {options.name!r}", print):
        runs = to_do(sweep, options)
        if options.submit:
            return submit_all(runs, options, argv, console)
        return run_all(runs, sweep, options, console)


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 all ran, 2 usage, 3 Slurm, 4 a run failed, 130 interrupted."""
    try:
        with command_line.outliving_readers():
            return _perform(argv, Console())
    except (Refused, SlurmFault, StoreError, RunnerDied) as error:
        return command_line.complain("jobs.sweep", error, error.exit_code)
    except OSError as error:
        why = f"{error.filename or 'this machine'}: {error.strerror or error}"
        return command_line.complain("jobs.sweep", why, ExitCode.ENVIRONMENT)
    except KeyboardInterrupt:
        print("jobs.sweep: interrupted; finished runs are kept, the same command continues", file=sys.stderr)
        return ExitCode.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
