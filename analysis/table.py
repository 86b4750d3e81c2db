"""The configurations as a table: the same cells for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from analysis.stats import RUNS_FOR_95_PERCENT, Interval

GIB = 2**30

HEADINGS = (
    "workload",
    "strategy",
    "devices",
    "runs",
    "images/s",
    "interval",
    "images/s/device",
    "efficiency",
    "its range",
    "data wait",
    "process mem",
    "alloc peak",
)


TEXT_COLUMNS = 2
"""The first ones, which hold words."""

WIDE_SPREAD = 0.1
"""Runs of one configuration that differ by more than this share of their median call for a warning."""

IMPOSSIBLE_EFFICIENCY = 1.02


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One configuration of `analysis.scaling.configurations` as text, in the order of HEADINGS."""
    rate: Interval | None = row["images_per_s"]
    ok = len(row["run_ids"])
    return (
        row["workload"],
        row["series"],
        f"{row['num_devices']} {row['device_kind'].upper()}" + (f" + {row['num_ps']} PS" if row["num_ps"] else ""),
        str(ok) if not row["failed"] else f"{ok} + {row['failed']} failed",
        _number(rate.median) if rate else "failed",
        f"{_number(rate.low)} - {_number(rate.high)}" if rate and rate.low and rate.high else "-",
        _number(rate.median / row["num_devices"]) if rate else "-",
        f"{row['efficiency']:.0%}" if row["efficiency"] is not None else "-",
        "{:.0%} - {:.0%}".format(*row["efficiency_range"]) if row["efficiency_range"] else "-",
        f"{row['data_wait_share']:.1%}" if row["data_wait_share"] is not None else "-",
        _gib(row["peak_rss_bytes"]),
        _gib(row["framework_peak_mem_bytes"]),
    )


def _number(value: float) -> str:
    """Four digits or more."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"  # noqa: PLR2004


def _gib(size: float | None) -> str:
    return f"{size / GIB:.2f} GiB" if size is not None else "-"


def terminal_tables(rows: list[dict[str, Any]]) -> Iterator[Table]:
    """A table for each workload, to fit into a terminal."""
    for workload, group in groupby(rows, key=lambda row: cells(row)[0]):
        table = Table(title=workload, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, heading in enumerate(HEADINGS[1:], start=1):
            table.add_column(heading, justify="left" if index < TEXT_COLUMNS else "right")
        for row in group:
            table.add_row(*cells(row)[1:])
        yield table


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know to read the table rightly."""
    coverages = sorted({round(row["images_per_s"].coverage, 3) for row in rows if row["images_per_s"]})
    said = [
        "images/s: all devices together, median over runs (each a process of its own); images/s/device is that "
        "divided by the devices.",
        "interval: rank interval of the median, coverage " + ", ".join(f"{value:.1%}" for value in coverages) + ".",
        "efficiency: images/s over devices x images/s of the base case, strategy 'single' with the same batch (per "
        "device for weak scaling) and the same cores per device; its range takes the extremes of both.",
    ]
    said.append(
        "process mem: largest resident set of a process"
        + (
            ", less the part of TensorFlow's import that preloaded runs share."
            if any(r["preloaded"] for r in rows)
            else "."
        )
    )
    if any(row["num_ps"] for row in rows):
        said.append(
            "PS: parameter servers, processes besides the workers. The report's devices are the workers'; servers use "
            "the same cores where all run on one machine, and hosts of their own elsewhere."
        )
    said.append("data wait: share of the timed iterations in which ranks waited for input.")
    said.append("alloc peak: most memory that TensorFlow held for tensors on a device, after warm-up.")
    for why in sorted({row["why_no_efficiency"] for row in rows if row["why_no_efficiency"]}):
        said.append(f"no efficiency where there is {why}.")
    if any(row["failed"] for row in rows):
        said.append("failed runs are counted and never averaged in.")
    return said


def warnings(rows: list[dict[str, Any]]) -> list[str]:
    """Why the figures should be read with care, and what to run next."""
    said = []
    spreads = [(_spread(row["images_per_s"]), _name(row)) for row in rows if row["images_per_s"]]
    wide = sorted(pair for pair in spreads if pair[0] > WIDE_SPREAD)
    if wide:
        said.append(
            f"{len(wide)} of {len(spreads)} configurations differ by more than {WIDE_SPREAD:.0%} between runs (most: "
            f"{wide[-1][1]}, {wide[-1][0]:.0%}): the machine was not quiet. Smaller differences than that mean nothing "
            "here; repeat the sweep with more repeats, or with the machine to yourself."
        )
    over = [_name(row) for row in rows if row["efficiency"] and row["efficiency"] > IMPOSSIBLE_EFFICIENCY]
    if over:
        said.append(
            f"efficiency above 100% is not real ({', '.join(over)}): the base case was measured too slow, by noise or "
            "with fewer resources. Measure it again."
        )
    few = min((row["images_per_s"].runs for row in rows if row["images_per_s"]), default=0)
    if 0 < few < RUNS_FOR_95_PERCENT:
        said.append(f"{few} run(s) a configuration: {RUNS_FOR_95_PERCENT} give an interval of 95%.")
    return said


def _spread(rate: Interval) -> float:
    return (rate.high - rate.low) / rate.median if rate.high is not None and rate.low is not None else 0.0


def _name(row: dict[str, Any]) -> str:
    return f"{row['series']} x{row['num_devices']} {row['model']}"
