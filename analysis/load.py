"""From result directories to one row a run, with its figures recomputed from the raw iterations by DuckDB.

    runs = Results(Selection(experiment=("nightly-*",))).runs  # a pandas row for each run

Files of jobs that are still writing appear when they are complete. What cannot be read is skipped and named in
`Results.skipped`; the commands then end with another exit code than 0.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pandas as pd

from analysis import earlier, files
from analysis.errors import AnalysisError, DamagedStore, NewerSchema
from analysis.files import Skipped
from analysis.options import RESULTS_DIR, Selection
from analysis.tables import Foreign, Tables
from analysis.text import some
from results import knobs
from results.schema import SCHEMA_VERSION, TABLES_OF_RUNS, TRIAL_EXPERIMENT

MACHINE = (
    *("gpus", "hostname", "cpu_model", "instruction_set", "cpu_cores", "threads_per_core", "memory_bytes", "os"),
    *("kernel", "driver_version", "cuda_version", "cudnn_version", "nccl_version", "mpi_library", "horovod_version"),
    *("tensorflow_version", "keras_version", "numpy_version", "python_version"),
    *("trainscale_version", "git_commit", "git_dirty"),
)
"""The fields of a run's provenance that are shown and compared."""

T = TypeVar("T")

_SHOWN = 20
"""Names that an error lists."""

_UNUSED = ("provenance", "config", "null_reasons", "variables")
"""Columns of `runs` that are large and that nothing here reads whole, and what follows from the environment."""

_TRIAL = f"""experiment = '{TRIAL_EXPERIMENT}' or coalesce(
    case when json_valid(config) then cast(config as json) ->> 'trial' = 'true' end,
    -- Before `trial` was recorded, the steps of a trial told it.
    num_warmup_batches = 2 and num_batches_per_iter = 1 and num_iters = 1, false)"""

_RUNS = f"""
select * exclude ({", ".join(_UNUSED)}) replace (
        -- These came after the first schema, before which there was no such thing.
        cast(to_json(exchange) as varchar) as exchange, coalesce(preloaded, false) as preloaded,
        {earlier.expressions()}
    ), cast(to_json(struct_pack({", ".join(f"{name} := {earlier.recorded(name)}" for name in MACHINE)})) as varchar)
        as machine
    , cast(to_json(provenance.environment) as varchar) as environment
    , {_TRIAL} as trial
    , case when json_valid(config) then cast(config as json) ->> 'data_dir' end as data_dir
    , case when json_valid(config) then cast(config as json) ->> 'results_dir' end as results_dir
from source
"""

_RANKS = "select * exclude (devices, cores, weight_digests) from source"

_STEPS = """
select run_id, iter, max(duration_s / num_batches) as step_time_s  -- a step is as slow as its slowest rank
from {source} where not warmup and {wanted} group by run_id, iter
"""

_PACES = """
select run_id, rank, sum(num_batches) as num_batches, min(t_start_ns) as first_ns,
    max(t_start_ns + duration_s * 1e9) as last_ns, sum(duration_s) as duration_s,
    -- Where some iterations lack them, the others stand for these.
    sum(data_wait_s) * sum(duration_s) / sum(duration_s) filter (data_wait_s is not null) as data_wait_s,
    sum(compute_s) * sum(duration_s) / sum(duration_s) filter (compute_s is not null) as compute_s
from {source} where not warmup group by run_id, rank
"""

_FIGURES = """
with quantiles as (
    select run_id, quantile_cont(step_time_s, [0.5, 0.9, 0.95, 0.99]) as step_times,
        1.4826 * mad(step_time_s) as jitter_s
    from steps group by run_id
), own as (
    -- What a rank needs by itself: where all wait for all, only the part before the exchange is its own.
    select paces.*, ranks.hostname, ranks.num_devices, duration_s / num_batches as mean_step_s,
        case when chosen.synchronous then compute_s + data_wait_s else duration_s end / num_batches as own_s
    from paces
    join ranks on ranks.run_id = paces.run_id and ranks.rank = paces.rank
    join chosen on chosen.run_id = paces.run_id
), windows as (
    -- Images of all ranks over the window from the earliest start to the latest end: never a mean of rates.
    select run_id, sum(num_devices * num_batches) as device_batches, (max(last_ns) - min(first_ns)) / 1e9 as window_s,
        sum(data_wait_s) / sum(duration_s) as data_wait_share, sum(compute_s) / sum(duration_s) as compute_share,
        arg_max(rank, own_s) as slowest_rank, arg_max(hostname, own_s) as slowest_host,
        (max(own_s) - median(own_s)) / max(mean_step_s) as waited_share
    from own group by run_id
), costs as (
    select run_id, max(peak_rss_bytes) as peak_rss_bytes, max(other_cores) as other_cores,
        max(framework_peak_mem_bytes) as framework_peak_mem_bytes,
        max(gpu_peak_mem_used_bytes) as gpu_peak_mem_used_bytes, max(startup_time_s) as startup_time_s
    from ranks group by run_id
), learned as (
    -- The last evaluation comes after the last iteration; the others interrupt the window.
    select run_id, arg_max(accuracy, epoch) as final_accuracy, sum(eval_s) - arg_max(eval_s, epoch) as interrupted_s
    from evals group by run_id
)
select chosen.*, windows.device_batches * chosen.batch_per_device / (window_s - coalesce(interrupted_s, 0))
        as images_per_s,
    case when chosen.phase = 'forward' then chosen.flops_per_image else chosen.train_flops_per_image end
        * images_per_s / chosen.num_devices / chosen.peak_flops_per_s as mfu,
    step_times[1] as step_time_p50_s, step_times[2] as step_time_p90_s, step_times[3] as step_time_p95_s,
    step_times[4] as step_time_p99_s, quantiles.jitter_s, windows.* exclude (run_id, device_batches, window_s),
    costs.* exclude (run_id), learned.final_accuracy
from chosen
left join windows on windows.run_id = chosen.run_id and chosen.status = 'ok'
left join quantiles on quantiles.run_id = chosen.run_id and chosen.status = 'ok'
left join costs on costs.run_id = chosen.run_id and chosen.status = 'ok'
left join learned on learned.run_id = chosen.run_id and chosen.status = 'ok'
order by chosen.started_at, chosen.run_id
"""


class Results:
    """The chosen runs of some result directories.

    `runs`: a row a run by start, the columns of `results.schema.RUNS` without the largest, `machine` (MACHINE as JSON)
    and the figures, which are null unless the run is ok. `comparability_key` is computed anew, so that runs of all
    schema versions meet. `tables` answers questions about `ranks`, `steps` (each iteration of each run), `evals` and
    what `read_raw` adds. `skipped`: files that were left out; `trials`: how many runs of the selection were, as trials.

    With `keep` only those runs are read further that it chooses from all that were selected: it gets a frame of their
    run_id, experiment and label. Without `step_times` the figures of these are null, which saves time. Raises
    AnalysisError when there is no such run, NewerSchema for rows of a later TrainScale.
    """

    def __init__(
        self,
        selection: Selection,
        keep: Callable[[pd.DataFrame], Collection[str]] | None = None,
        *,
        step_times: bool = True,
    ) -> None:
        self._selection, self._keep, self._step_times = selection, keep, step_times
        self._roots = roots = files.directories(selection.results_dir or (RESULTS_DIR,))
        self._days = day("since", selection.since), day("until", selection.until)
        self.skipped: list[Skipped] = []
        self.trials = 0
        self.tables = Tables(self._listed())
        if not self.tables.paths["runs"]:
            held = [path.parent.name[5:] for path in files.of_table(roots, "runs", None, None)]
            raise AnalysisError(f"no run of the days that were asked for: there are some of {min(held)} to {max(held)}")
        try:
            self.runs = self._again(TABLES_OF_RUNS, self._read)
        except AnalysisError as error:
            if self.skipped and error.exit_code == AnalysisError.exit_code:
                first = f"{len(self.skipped)} files cannot be read, first {self.skipped[0]}"
                raise DamagedStore(f"{error}; {first}") from None
            raise

    def read_raw(self, table: str, run_ids: Iterable[str]) -> None:
        """Makes the table `raw_runs`, `raw_iters` or `raw_telemetry` of the whole rows of some runs."""
        wanted = ", ".join("'" + run_id.replace("'", "''") + "'" for run_id in run_ids)
        others = {*self.runs["run_id"], *self._left_out} - {*run_ids}
        sql = f"select * from source where run_id in ({wanted})"
        self._again([table], lambda: self.tables.collect(table, {f"raw_{table}": sql}, others))

    def collect(self, table: str, wanted: Mapping[str, str]) -> None:
        """`Tables.collect` of the chosen runs; files that turn out damaged join `skipped`."""
        self._again([table], lambda: self.tables.collect(table, wanted, self._left_out))

    def _again(self, tables: Iterable[str], reading: Callable[[], T]) -> T:
        """What `reading` returns; after trouble once more without the files of `tables` that cannot be read."""
        while True:
            try:
                return reading()
            except (duckdb.Error, Foreign):
                # If neither, the files are sound: the mistake is ours.
                if not self._look_again() and not self._set_aside(tables):
                    raise

    def _listed(self) -> dict[str, list[Path]]:
        return {table: files.of_table(self._roots, table, *self._days) for table in TABLES_OF_RUNS}

    def _look_again(self) -> bool:
        """Whether files are gone because they were merged into others (`results.compact`), which are then known."""
        if all(path.exists() for paths in self.tables.paths.values() for path in paths):
            return False
        skipped = {each.path for each in self.skipped}
        found = {table: [path for path in paths if path not in skipped] for table, paths in self._listed().items()}
        before, self.tables.paths = self.tables.paths, found
        return found != before

    def _set_aside(self, tables: Iterable[str]) -> bool:
        sorted_out = {
            table: files.sort_out(self.tables.paths[table], partial(self.tables.fault, table=table)) for table in tables
        }
        bad = [skipped for _, found in sorted_out.values() for skipped in found]
        self.skipped += bad
        self.tables.paths = {**self.tables.paths, **{table: good for table, (good, _) in sorted_out.items()}}
        return bool(bad)

    def _read(self) -> pd.DataFrame:
        self.tables.collect("runs", {"chosen": _RUNS})
        self._check_identity()
        self._left_out = self._narrow()
        self.tables.collect("ranks", {"ranks": _RANKS}, self._left_out)
        ((kept,),) = self.tables.rows("select count(*) from chosen")
        # Joining every iteration with the chosen runs costs more than grouping some in vain, if they are few.
        source = "source semi join chosen using (run_id)" if len(self._left_out) > kept else "source"
        wanted = "true" if self._step_times else "false"
        figures = {"steps": _STEPS.format(source=source, wanted=wanted), "paces": _PACES.format(source=source)}
        self.tables.collect("iters", figures, self._left_out)
        self.tables.collect("evals", {"evals": "select * from source"}, self._left_out)
        runs = _with_environment(self.tables.query(_FIGURES))
        earlier.settle([runs], by_recorded=True)
        return self._where(runs)

    def _check_identity(self) -> None:
        ((newest, rows, runs),) = self.tables.rows(
            "select max(schema_version), count(*), count(distinct run_id) from chosen"
        )
        if newest is not None and newest > SCHEMA_VERSION:
            raise NewerSchema(
                f"rows of schema {newest}; this TrainScale knows {SCHEMA_VERSION} and earlier: update it to read them"
            )
        if rows > runs:
            ((twice,),) = self.tables.rows(
                "select min(run_id) from (select run_id from chosen group by run_id having count(*) > 1)"
            )
            raise AnalysisError(f"run {twice} is there twice: name only one of the directories that hold it")

    def _narrow(self) -> set[str]:
        """Takes the runs that were not asked for from `chosen`; returns their run_ids. Raises AnalysisError."""
        left_out: set[str] = set()
        for column in Selection.NAMES:
            patterns = getattr(self._selection, column)
            if not patterns:
                continue
            known = [str(name) for (name,) in self.tables.rows(f"select distinct {column} from chosen")]
            wanted = [name for name in known if means(name, patterns)]
            if not wanted:
                raise unknown(column, " or ".join(patterns), known)
            gone = f"delete from chosen where {column} is null or not list_contains(?, {column}) returning run_id"
            left_out |= {run_id for (run_id,) in self.tables.rows(gone, wanted)}
        if not self.tables.rows("select 1 from chosen limit 1"):
            asked = ", ".join(f"--{name}" for name in (*Selection.NAMES, "since", "until"))
            raise AnalysisError(f"no run fits all that was asked for: leave out some of {asked}")
        if self._keep:
            kept = self._keep(self.tables.query("select run_id, experiment, label from chosen"))
            gone = "delete from chosen where run_id not in (select unnest(?)) returning run_id"
            left_out |= {run_id for (run_id,) in self.tables.rows(gone, [*kept])}
        if not self._selection.trials:
            trials = {run_id for (run_id,) in self.tables.rows("delete from chosen where trial returning run_id")}
            if trials and not self.tables.rows("select 1 from chosen limit 1"):
                raise AnalysisError(f"{trials_left_out(len(trials))} There is no other run")
            self.trials = len(trials)
            left_out |= trials
        return left_out

    def _where(self, runs: pd.DataFrame) -> pd.DataFrame:
        return runs if self._selection.where is None else holding(self.tables, runs, self._selection.where)


def holding(tables: Tables, runs: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The runs for which an SQL condition is true. Raises AnalysisError when it is none of SQL or never true."""
    try:
        kept = tables.matching(runs, condition, "run_id")
    except duckdb.Error as error:
        raise AnalysisError(f"--where {condition!r}: {' '.join(str(error).split())}") from None
    if not kept:
        raise AnalysisError(f"--where {condition!r} holds for none of {len(runs)} runs: ask for less")
    return runs[[run_id in kept for run_id in runs["run_id"].tolist()]].reset_index(drop=True)


def means(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of these, or like one with wildcards."""
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _with_environment(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with what their variables change: in `exchange` and `variables`, the others in `machine`."""
    columns = ("strategy", "device_kind", "requested_all_reduce", "num_ps", "exchange", "environment", "machine")
    rows = runs[list(columns)].astype(object)
    rows = rows.where(rows.notna(), None)
    found = [_effects(row) for row in rows.itertuples(index=False, name=None)]
    texts = {name: [row[place] for row in found] for place, name in enumerate(("exchange", "variables", "machine"))}
    onednn = [
        earlier.onednn(known, environment)
        for known, environment in zip(runs["onednn"], rows["environment"], strict=True)
    ]
    return runs.drop(columns="environment").assign(**texts, onednn=pd.Series(onednn, dtype=object, index=runs.index))


@lru_cache(maxsize=4096)
def _effects(row: tuple[Any, ...]) -> tuple[str, str, str]:
    """(exchange, variables, machine) of a run; `row` as `_with_environment` takes it from its columns."""
    *about, exchange, environment, machine = row
    run = dict(zip(("strategy", "device_kind", "requested_all_reduce", "num_ps"), about, strict=True))
    found = knobs.effects(run, knobs.parse_map(exchange), knobs.parse_map(environment))
    fields = json.loads(machine) | ({"environment": dict(found.named)} if found.named else {})
    return knobs.as_text(found.exchange), knobs.as_text(found.variables), json.dumps(fields)


def trials_left_out(number: int) -> str:
    """The sentence about the trials that a selection lacks; empty if it lacks none."""
    if not number:
        return ""
    trials = "1 trial of --find-max-batch is" if number == 1 else f"{number:,} trials of --find-max-batch are"
    return f"{trials} left out: --trials shows them."


def unknown(what: str, name: str, known: Iterable[str]) -> AnalysisError:
    """The error for a name that no run has: lists some that there are and suggests the nearest."""
    names = sorted({*known} - {"None"})
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return AnalysisError(f"no run of {what} {name!r}.{hint} There are: {some(names, _SHOWN) or 'none'}")


def day(flag: str, text: str | None) -> str | None:
    """A day as the folders of a store are named, YYYY-MM-DD; None where none was given. Raises AnalysisError."""
    try:
        return text and date.fromisoformat(text).isoformat()
    except ValueError:
        raise AnalysisError(f"--{flag} is {text!r}: give a day as YYYY-MM-DD") from None
