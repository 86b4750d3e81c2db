"""From a results directory to one row a run, with its figures recomputed from the raw iterations by DuckDB."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd

from results.schema import RUN_TABLES, TABLES


class AnalysisError(Exception):
    """The store holds no answer to the question; one line with the remedy."""

    exit_code = 2


_FIGURES = """
with iterations as (
    -- A step is as slow as its slowest rank.
    select run_id, iter, max(duration_s / num_batches) as step_time_s
    from iters where not warmup group by run_id, iter
), steps as (
    select run_id,
        quantile_cont(step_time_s, 0.5) as step_time_p50_s,
        quantile_cont(step_time_s, 0.95) as step_time_p95_s
    from iterations group by run_id
), windows as (
    -- Images of all ranks over the window from the earliest start to the latest end: never a mean of rates.
    select iters.run_id,
        (max(t_start_ns + duration_s * 1e9) - min(t_start_ns)) / 1e9 as window_s,
        sum(num_batches * ranks.num_devices) as device_batches,
        sum(data_wait_s) / sum(duration_s) as data_wait_share
    from iters join ranks on ranks.run_id = iters.run_id and ranks.rank = iters.rank
    where not warmup group by iters.run_id
), costs as (
    select run_id,
        max(peak_rss_bytes) as peak_rss_bytes,
        max(framework_peak_mem_bytes) as framework_peak_mem_bytes,
        max(startup_time_s) as startup_time_s
    from ranks group by run_id
)
select runs.* replace (trim(cast(exchange as varchar), '{}') as exchange),
    windows.device_batches * runs.batch_per_device / windows.window_s as images_per_s,
    steps.* exclude (run_id), windows.data_wait_share, costs.* exclude (run_id)
from runs
left join windows on windows.run_id = runs.run_id and runs.status = 'ok'
left join steps on steps.run_id = runs.run_id and runs.status = 'ok'
left join costs on costs.run_id = runs.run_id and runs.status = 'ok'
order by runs.started_at
"""

_STEP_TIMES = """
select run_id, max(duration_s / num_batches) as step_time_s
from iters where not warmup and list_contains(?, run_id) group by run_id, iter order by run_id, iter
"""


class Results:
    """The runs of one results directory, of one experiment or of all.

    `runs`: a row a run, the columns of `results.schema.RUNS` and the figures, which are null unless the run is ok.
    Raises AnalysisError when there is no run.
    """

    def __init__(self, root: Path, experiment: str | None = None) -> None:
        self._db = duckdb.connect()
        if not any((root / "runs").glob("date=*/*.parquet")):
            raise AnalysisError(
                f"no runs in {str(root)!r}: measure some with python -m bench.run, or name --results-dir"
            )
        for table in RUN_TABLES:
            files = self._db.read_parquet(str(root / table / "date=*" / "*.parquet"), union_by_name=True)
            # A store that an earlier version wrote lacks what was added since.
            lacking = [f"null::varchar as {c.name}" for c in TABLES[table] if c.name not in files.columns]
            files.project(", ".join(["*", *lacking])).create_view(table)
        self.runs: pd.DataFrame = self._db.execute(_FIGURES).df()
        if experiment is not None:
            known = sorted(set(self.runs["experiment"]))
            self.runs = self.runs[self.runs["experiment"] == experiment]
            if self.runs.empty:
                raise AnalysisError(f"no run of experiment {experiment!r} in {str(root)!r}; it has: {', '.join(known)}")

    def step_times(self, run_ids: list[str]) -> pd.DataFrame:
        """run_id, step_time_s: a row for each timed iteration of the runs, of its slowest rank."""
        return self._db.execute(_STEP_TIMES, [run_ids]).df()
