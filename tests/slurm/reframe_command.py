"""Runs the real `reframe` on the checks of jobs/reframe as a site would, with bounds, and reads its report."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.summary import summarise
from tests.benchmark import ROOT, Benchmark, clean_environment

BOUND_S = 150
CHECK, SETTINGS = ROOT / "jobs" / "reframe" / "trainscale.py", ROOT / "jobs" / "reframe" / "settings.py"


@dataclass(frozen=True)
class ReFrame:
    """The command, with everything that it writes in one folder, and the results of its runs in `benchmark`'s store."""

    folder: Path
    benchmark: Benchmark

    def __call__(
        self, system: str, *words: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("reframe")), "--nocolor", f"-C{SETTINGS}", f"-c{CHECK}"]
        command += [f"--prefix={self.folder}", f"--report-file={self.report}", f"--system={system}"]
        command += [f"-Spython={sys.executable}", f"-Sresults_dir={self.benchmark.results}", *words]
        # It writes into the home directory and keeps its log as a temporary file.
        here = {"HOME": str(self.folder), "TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=clean_environment() | here | (env or {}),
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )

    @property
    def report(self) -> Path:
        return self.folder / "report.json"

    def cases(self) -> dict[str, dict[str, Any]]:
        """Strategy -> its case in the JSON report."""
        (run,) = json.loads(self.report.read_text())["runs"]
        cases = {case["strategy"]: case for case in run["testcases"]}
        assert len(cases) == len(run["testcases"])
        return cases

    def figures(self, case: dict[str, Any]) -> dict[str, float]:
        """Figure -> what the report says of it."""
        return {key.rpartition(":")[2]: values[0] for key, values in case["perfvalues"].items()}

    def stored(self, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The row of `runs`, and the figures made anew of the rows in the store."""
        tables = {name: self.rows(name, run_id) for name in ("runs", "ranks", "iters")}
        return tables["runs"][0], summarise(tables)  # type: ignore[arg-type]

    def rows(self, table: str, run_id: str) -> list[dict[str, Any]]:
        rows = pq.read_table(self.benchmark.results / table).to_pylist()
        return [row for row in rows if row["run_id"] == run_id]
