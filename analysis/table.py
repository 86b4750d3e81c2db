"""The configurations as a table: the same cells for the terminal and the report."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from analysis.stats import Interval

GIB = 2**30

HEADINGS = (
    "model",
    "data",
    "strategy",
    "devices",
    "runs",
    "images/s",
    "interval",
    "images/s/device",
    "efficiency",
    "process memory",
    "allocator peak",
)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One configuration of `analysis.scaling.configurations` as text, in the order of HEADINGS."""
    rate: Interval | None = row["images_per_s"]
    ok = len(row["run_ids"])
    return (
        row["model"],
        row["dataset"],
        row["strategy"],
        f"{row['num_devices']} {row['device_kind'].upper()}",
        str(ok) if not row["failed"] else f"{ok} + {row['failed']} failed",
        f"{rate.median:,.1f}" if rate else "failed",
        f"{rate.low:,.1f} - {rate.high:,.1f}" if rate and rate.low is not None and rate.high is not None else "-",
        f"{rate.median / row['num_devices']:,.1f}" if rate else "-",
        f"{row['efficiency']:.0%}" if row["efficiency"] is not None else "-",
        _gib(row["peak_rss_bytes"]),
        _gib(row["framework_peak_mem_bytes"]),
    )


def _gib(size: float | None) -> str:
    return f"{size / GIB:.2f} GiB" if size is not None else "-"


def terminal_table(rows: list[dict[str, Any]]) -> Table:
    """The table for a terminal."""
    table = Table(*HEADINGS[:3])
    for heading in HEADINGS[3:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*cells(row))
    return table


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know to read the table rightly."""
    coverages = sorted({round(row["images_per_s"].coverage, 3) for row in rows if row["images_per_s"]})
    said = [
        "images/s: all devices together, median over runs (each a process of its own); images/s/device is that "
        "divided by the devices.",
        "interval: rank interval of the median, coverage " + ", ".join(f"{value:.1%}" for value in coverages) + ".",
        "efficiency: images/s over devices x images/s of the base case, strategy 'single' with the same batch "
        "(per device for weak scaling) and the same cores per device.",
    ]
    said.append(
        "process memory: largest resident set of a process"
        + (
            ", less the part of TensorFlow's import that preloaded runs share."
            if any(r["preloaded"] for r in rows)
            else "."
        )
    )
    said.append("allocator peak: most memory that TensorFlow held for tensors on a device, after warm-up.")
    if any(row["failed"] for row in rows):
        said.append("failed runs are counted and never averaged in.")
    return said
