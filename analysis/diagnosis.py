"""What makes the figures of runs doubtful, found in the iterations and telemetry of all runs at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.configurations import Configuration
from analysis.load import Results
from analysis.steadiness import LEAST_ITERS, drifts, excesses, gaps

THROTTLING = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of NVML's nvmlClocksEventReasons (NVML API reference) that slow a GPU down against the will of its user. Idling
(0x1), sync boost (0x10) and clocks that somebody set (0x2, 0x100) do not."""

_IDLE = 0x1

_THROTTLED_SHARE, _CLOCK_CHANGE, _WAITED_SHARE = 0.05, 0.1, 0.05

_STEPS = "select run_id, list(step_time_s order by iter) as step_times_s from steps group by run_id order by 1"

_REASONS = ", ".join(f"count(*) filter (throttle_reasons & {bit} > 0) as reason_{bit}" for bit in THROTTLING)

# A GPU that idles for a moment lowers its clock on purpose.
_GPUS = f"""
select source.run_id, min(rank) as rank, count(throttle_reasons) as samples,
    count(*) filter (throttle_reasons & {sum(THROTTLING)} > 0) as throttled, {_REASONS},
    max(sm_clock_mhz) filter (coalesce(throttle_reasons, 0) & {_IDLE} = 0) as highest_mhz,
    min(sm_clock_mhz) filter (coalesce(throttle_reasons, 0) & {_IDLE} = 0) as lowest_mhz
from source join (
    select run_id, min(first_ns) as first_ns, max(last_ns) as last_ns from paces group by run_id
) as timed on timed.run_id = source.run_id and source.t_ns between timed.first_ns and timed.last_ns
where gpu_uuid is not null group by source.run_id, gpu_uuid
"""

_CLOCKS = """
select gpus.*, hostname from gpus left join ranks on ranks.run_id = gpus.run_id and ranks.rank = gpus.rank
order by gpus.run_id, gpus.rank
"""


def warnings(results: Results, found: Sequence[Configuration]) -> list[str]:
    """Why the figures of the good runs of some configurations should be doubted; a sentence for each reason.

    Reads the telemetry, whose damaged files join `results.skipped`.
    """
    names = {run_id: f"{one.name}, run {run_id}" for one in found for run_id in one.run_ids}
    # With parameter servers an iteration is one worker's, and unequal workers look like unsteady steps.
    uniform = {run_id for one in found if not one.setup["num_ps"] for run_id in one.run_ids}
    steps = _steps(results, uniform)
    results.collect("telemetry", {"gpus": _GPUS})
    gpus = results.tables.query(_CLOCKS)
    gpus = gpus[_among(gpus, names)]
    runs = results.runs[_among(results.runs, names)]
    said = (
        _levels(steps, names),
        _drift(steps, names),
        _warm_up(steps, names),
        _throttling(gpus, names),
        _clocks(gpus, names),
        _stragglers(runs, names),
        _without_figures(runs, names),
    )
    return [sentence for sentence in said if sentence]


def _steps(results: Results, wanted: Collection[str]) -> pd.DataFrame:
    """A row for each run whose steps have two levels, drift, or begin slowly: by how much, else NaN."""
    held = results.tables.query(_STEPS)
    held = held[_among(held, wanted) & (held["step_times_s"].map(len) >= LEAST_ITERS)]
    steps = held[["run_id"]].assign(gap=np.nan, drift=np.nan, excess=np.nan)
    # Runs of one length are the rows of a matrix: one calculation for all of them.
    for _, runs in held.groupby(held["step_times_s"].map(len)):
        times_s = np.stack(runs["step_times_s"].to_list())
        figures = np.column_stack([gaps(times_s), drifts(times_s), excesses(times_s)])
        steps.loc[runs.index, ["gap", "drift", "excess"]] = figures
    return steps


def _among(rows: pd.DataFrame, run_ids: Collection[str]) -> npt.NDArray[np.bool_]:
    """Which rows are of these runs; `isin` would turn all names into Arrow's strings for that."""
    return np.array([run_id in run_ids for run_id in rows["run_id"].tolist()], dtype=bool)


def _levels(steps: pd.DataFrame, names: dict[str, str]) -> str | None:
    steps = steps[steps["gap"].notna()]
    if steps.empty:
        return None
    worst = _worst(steps, "gap")
    return (
        f"Step times have two levels in {_of(steps, names)} (worst: {names[worst['run_id']]}, {worst['gap']:.0%} apart)"
        ": something switched on and off, such as another job or a clock; look for it, and do not trust their medians."
    )


def _drift(steps: pd.DataFrame, names: dict[str, str]) -> str | None:
    steps = steps[steps["drift"].notna()]
    if steps.empty:
        return None
    worst = _worst(steps, "drift")
    way = "longer" if worst["drift"] > 0 else "shorter"
    return (
        f"Step times drift in {_of(steps, names)} (worst: {names[worst['run_id']]}, {abs(worst['drift']):.0%} {way} in "
        "the last third than in the first): let the machine come to rest and measure more iterations, --num-iters."
    )


def _warm_up(steps: pd.DataFrame, names: dict[str, str]) -> str | None:
    steps = steps[steps["excess"].notna()]
    if steps.empty:
        return None
    worst = _worst(steps, "excess")
    return (
        f"Warm-up had not settled in {_of(steps, names)} (worst: {names[worst['run_id']]}, the first tenth of the "
        f"timed iterations {worst['excess']:.0%} slower than the rest): measure again with more --num-warmup-batches."
    )


def _throttling(gpus: pd.DataFrame, names: dict[str, str]) -> str | None:
    reasons = {f"reason_{bit}": name for bit, name in THROTTLING.items()}
    runs = gpus.groupby("run_id", as_index=False)[["samples", "throttled", *reasons]].sum()
    runs = runs.assign(share=runs["throttled"] / runs["samples"])
    runs = runs[runs["share"] >= _THROTTLED_SHARE]
    if runs.empty:
        return None
    worst = _worst(runs, "share")
    counts = {name: int((runs[column] > 0).sum()) for column, name in reasons.items()}
    why = ", ".join(f"{name} in {count}" for name, count in counts.items() if count)
    return (
        f"GPUs were throttled while timing in {_of(runs, names)}: {why} (worst: {names[worst['run_id']]}, "
        f"{worst['share']:.0%} of the samples): cool them, raise their power limit or lock a lower clock with "
        "nvidia-smi --lock-gpu-clocks, and measure again."
    )


def _clocks(gpus: pd.DataFrame, names: dict[str, str]) -> str | None:
    gpus = gpus.assign(change=1 - gpus["lowest_mhz"] / gpus["highest_mhz"])
    gpus = gpus[(gpus["change"] > _CLOCK_CHANGE).fillna(False).astype(bool)]
    if gpus.empty:
        return None
    worst = _worst(gpus, "change")
    host = f" on {worst['hostname']}" if isinstance(worst["hostname"], str) else ""
    return (
        f"SM clocks changed by more than {_CLOCK_CHANGE:.0%} while timing in {_of(gpus, names)} (worst: "
        f"{names[worst['run_id']]}, {worst['lowest_mhz']:.0f} to {worst['highest_mhz']:.0f} MHz{host}): lock them with "
        "nvidia-smi --lock-gpu-clocks, and measure again."
    )


def _stragglers(runs: pd.DataFrame, names: dict[str, str]) -> str | None:
    # Where ranks do not step together nobody waits.
    runs = runs[((runs["waited_share"] > _WAITED_SHARE) & runs["synchronous"]).fillna(False).astype(bool)]
    if runs.empty:
        return None
    worst = _worst(runs, "waited_share")
    host = f" on {worst['slowest_host']}" if isinstance(worst["slowest_host"], str) else ""
    # On one node the host is always the same and says nothing.
    hosts = runs.loc[(runs["num_nodes"] > 1).fillna(False).astype(bool), "slowest_host"].dropna()
    top, times = (hosts.mode()[0], int(hosts.value_counts().max())) if len(hosts) else (None, 0)
    often = f"; slowest is {top} in {times} of {len(hosts)} on several nodes" if 1 < times > len(hosts) / 2 else ""
    return (
        f"One rank is a straggler in {_of(runs, names)}: it needs more than {_WAITED_SHARE:.0%} of a step longer than "
        f"the median rank (worst: {names[worst['run_id']]}, rank {worst['slowest_rank']}{host}, "
        f"{worst['waited_share']:.0%}{often}): look there for other load, fewer cores or a lower clock."
    )


def _without_figures(runs: pd.DataFrame, names: dict[str, str]) -> str | None:
    runs = runs[runs["images_per_s"].isna()]
    if runs.empty:
        return None
    return (
        f"Iterations are missing or cannot be read in {_of(runs, names)} that ended well (first: "
        f"{names[runs['run_id'].iloc[0]]}): bring back their files, or measure again."
    )


def _worst(concerned: pd.DataFrame, column: str) -> pd.Series[Any]:
    return concerned.iloc[int(np.argmax(np.abs(concerned[column].to_numpy(dtype=float))))]


def _of(concerned: pd.DataFrame, names: dict[str, str]) -> str:
    return f"{concerned['run_id'].nunique():,} of {len(names):,} run{'' if len(names) == 1 else 's'}"
