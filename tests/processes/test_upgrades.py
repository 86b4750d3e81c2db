"""A store and a baseline of the schema before, gated against a run of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import regress
from tests.benchmark import ROOT, Benchmark

pytestmark = pytest.mark.processes

FIXTURES = ROOT / "tests" / "fixtures"
MACHINES = ("device_name", "cores_per_device")
"""Fields of the work's comparability that are not of the work."""


def test_figures_of_the_schema_before_meet_those_of_today(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = benchmark.fresh.run("--strategy=mwms", "--num-workers=2", "--label=today")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    across = [f"--across={name}" for name in MACHINES]
    for baseline in (f"{FIXTURES / 'schema-6'}", "schema-6"):
        code = regress.main(
            [
                *(f"--baseline={baseline}", f"--baselines-dir={FIXTURES / 'baselines'}"),
                *(f"--candidate={benchmark.results}", "--metric=images_per_s", "--metric=peak_rss_bytes"),
                *(*across, "--json=gate.json"),
            ]
        )
        lines = json.loads(Path("gate.json").read_text())["verdicts"]
        # One run on each side cannot be judged; that there is a change says that they were taken for the same thing.
        assert code == 5
        assert [(line["verdict"], line["change"]["value"] > 0) for line in lines] == [("inconclusive", True)] * 2
