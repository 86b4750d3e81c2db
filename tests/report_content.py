"""A small store and what a report says of a store, for the tests of reports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from analysis.content import Content, gather
from analysis.load import Results
from analysis.options import Selection
from tests.synthetic_store import add_run


def measured(root: Path) -> Path:
    """Writes three runs of the base case, three of two workers, one that failed; returns `root`."""
    for step in (0.1, 0.11, 0.12):
        add_run(root, [step, step], compute_shares=[0.7], hostnames=["a"], samples=20)
        add_run(
            root,
            [step, step * 1.1],
            strategy="mwms",
            num_processes=2,
            num_devices=2,
            compute_shares=[0.6, 0.6 / 1.1],
            hostnames=["a", "b"],
            samples=20,
        )
    add_run(root, status="failed", error="boom", label="l", failed_rank=1, failed_phase="trace")
    return root


def content_of(root: Path) -> Content:
    return gather(Results(Selection(results_dir=(str(root),))), floor=0.8, link_gb_per_s=None)


def plots_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(spec) for spec in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)]
