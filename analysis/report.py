"""`python -m analysis.report`: the table on the terminal, one self-contained HTML file, and a PNG for each workload."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import tyro
from plotly.offline import get_plotlyjs
from rich.console import Console

from analysis import charts, figures, table
from analysis.load import AnalysisError, Results
from analysis.scaling import configurations


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read the result store and write a report."""

    results_dir: Path = Path("results/data")
    """Where the tables are [path]."""
    experiment: str | None = None
    """Only the runs of this experiment. None is all."""
    output: Path = Path("results/reports")
    """Folder for report.html and the PNGs [path]."""


def write(results: Results, folder: Path, title: str) -> list[Path]:
    """Writes a PNG for each workload and report.html into `folder`; returns their paths, the HTML last."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = configurations(results.runs)
    written, sections = [], []
    for name, group in charts.workloads(rows):
        ran = [run_id for row in group for run_id in row["run_ids"]]
        if not ran:
            continue
        times = results.step_times(ran)
        written.append(folder / (re.sub(r"\W+", "_", name)[:100] + ".png"))
        figures.save(name, group, times, written[-1])
        plots = {
            "Throughput": charts.throughput(group),
            "Scaling efficiency": charts.efficiency(group),
            "Step time": charts.step_times(group, times),
            "Memory": charts.memory(group),
        }
        sections.append({"name": name, "plots": {heading: plot.to_plotly_json() for heading, plot in plots.items()}})
    written.append(folder / "report.html")
    written[-1].write_text(_render(title, results.runs, rows, sections))
    return written


def _render(title: str, runs: pd.DataFrame, rows: list[dict[str, Any]], sections: list[dict[str, Any]]) -> str:
    environment = jinja2.Environment(loader=jinja2.PackageLoader("analysis"), autoescape=True, trim_blocks=True)
    failed = runs[runs["status"] != "ok"]
    return environment.get_template("report.html.j2").render(
        title=title,
        written_at=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        headings=table.HEADINGS,
        rows=[table.cells(row) for row in rows],
        notes=table.notes(rows),
        warnings=table.warnings(rows),
        sections=sections,
        failed=failed[["label", "status", "failed_rank", "failed_phase", "error"]].to_dict("records"),
        machines=_machines(runs),
        counts={"runs": len(runs), "failed": len(failed)},
        plots_json=_script_safe([list(section["plots"].values()) for section in sections]),
        plotlyjs=get_plotlyjs(),
    )


def _script_safe(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, default=lambda item: item.tolist())
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_SHOWN = (
    *("hostname", "cpu_model", "cpu_cores", "os", "kernel", "driver_version"),
    *("tensorflow_version", "keras_version", "python_version", "git_commit", "git_dirty"),
)


def _machines(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The distinct machines and versions that the runs come from, with the number of runs of each."""
    seen: dict[str, dict[str, Any]] = {}
    for provenance in runs["provenance"]:
        shown = {name: provenance.get(name) for name in _SHOWN if provenance.get(name) is not None}
        if not shown:  # the run never began
            continue
        seen.setdefault(json.dumps(shown, default=str), {**shown, "runs": 0})["runs"] += 1
    return list(seen.values())


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 written, 2 nothing to report on."""
    options = tyro.cli(Options, prog="python -m analysis.report", args=list(argv))
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a table in a log file should not be cut to 80 columns
    try:
        results = Results(options.results_dir, options.experiment)
        *plots, report = write(results, options.output, options.experiment or "all experiments")
    except AnalysisError as error:
        print(f"analysis.report: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"analysis.report: cannot write {error.filename!r}: {error.strerror}; choose --output", file=sys.stderr)
        return 2
    rows = configurations(results.runs)
    for each in table.terminal_tables(rows):
        console.print(each)
    for note in table.notes(rows):
        console.print(f"  {note}", highlight=False)
    for warning in table.warnings(rows):
        console.print(f"  Warning: {warning}", highlight=False, style="yellow")
    for path in plots:
        print(f"Plot: {path.resolve()}")
    print(f"Report: {report.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
