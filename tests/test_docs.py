"""What the documentation says is true: its commands run, its names exist, its links lead somewhere."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from analysis.scaling import LIKE_BASE_CASE
from analysis.table import HEADINGS
from bench.workloads.optimizers import OPTIMIZERS
from bench.workloads.source import SETS
from jobs.sweep import load as load_sweep
from results.exit_codes import ExitCode
from results.schema import TABLES, TRIAL_EXPERIMENT
from strategies import STRATEGIES
from tests.benchmark import BOUND_S, ROOT, SEVERAL_S, commands_of, perform
from tests.faults.training import FAULTS
from tests.fuzz.test_command_lines import COMMANDS, flags_of
from tests.synthetic_store import START, add_run

CLUSTER = ROOT / "docs" / "cluster.md"  # whose commands tests/slurm/test_docs.py runs
ANALYSIS = ROOT / "docs" / "analysis.md"  # whose commands want more runs than there is time to measure
PROOF = ROOT / "docs" / "proof.md"
TRANSFER = ROOT / "docs" / "transfer.md"  # whose commands tests/processes/test_transfer.py runs
OF_OTHERS = {
    *("--exclusive", "--gpus-per-node", "--gpus-per-task", "--ntasks-per-node"),  # srun, sbatch
    *("--build-arg", "--nv", "--pty"),  # docker, apptainer
    *("--dest", "--find-links", "--no-build-isolation", "--no-deps", "--no-index", "--require-hashes"),  # pip
    *("--mode", "--system"),  # reframe
    "--file-a-run",  # tests.perf.analysis_scale
}
"""Flags that the documents name and that no command of ours takes."""
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    return [line for path in DOCS if path not in (CLUSTER, ANALYSIS, TRANSFER) for line in commands_of(path)]


def test_make_targets_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    named = {line.split()[1] for line in commands() if line.startswith("make ")}
    named |= {word for path in DOCS for word in re.findall(r"`make (\w+)`", path.read_text())}
    assert {"demo", "test"} <= named <= set(targets)


@pytest.mark.processes
@pytest.mark.timeout(len(commands()) * BOUND_S)
def test_every_command_runs_as_it_stands_and_fills_the_store(tmp_path: Path) -> None:
    """In the documents' order, in a folder that has the sweep files where the checkout has them."""
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    python = [line for line in commands() if line.startswith("python ")]
    assert len(python) + sum(line.startswith("make ") for line in commands()) == len(commands())
    for line in python:
        perform(line, tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    back = Path.cwd()
    os.chdir(tmp_path)
    try:
        names: dict[str, pd.DataFrame] = {}
        exec(code, names)  # noqa: S102 the README's own example
    finally:
        os.chdir(back)
    searches = names["runs"]["experiment"] == TRIAL_EXPERIMENT
    measured = sum(" bench.run " in line and not {"--dry-run", "--find-max-batch"} & {*line.split()} for line in python)
    assert (~searches).sum() == measured
    assert searches.any()
    assert set(names["runs"]["status"]) == {"ok"}


@pytest.mark.timeout(SEVERAL_S)
@pytest.mark.commands
def test_every_command_of_the_analysis_guide_works(tmp_path: Path) -> None:
    """In the document's order, on a store with the experiments and labels that it names."""
    nights = ("nightly-2026-05-01", "nightly-2026-05-02", "tonight")
    for day, experiment in enumerate(nights):
        for number in range(3):
            for strategy, label, step in (("single", "base", 0.1), ("mwms", "old", 0.12), ("horovod", "new", 0.11)):
                count = 1 if label == "base" else 2
                add_run(
                    tmp_path / "results" / "data",
                    [step * (1 + number / 1000)] * 3,
                    experiment=experiment,
                    label=label,
                    strategy=strategy,
                    num_devices=count,
                    num_processes=count,
                    started_at=START + timedelta(days=day),
                )
    for line in commands_of(ANALYSIS):
        perform(line, tmp_path)
    assert {path.name for path in tmp_path.glob("*.*")} == {"gate.json", "gate.xml"}
    reports = tmp_path / "results" / "reports"
    assert {path.suffix for path in reports.iterdir()} == {".html", ".png", ".svg"}


def test_links_lead_to_files() -> None:
    for path in DOCS:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), (path.name, target)


def test_the_readme_shows_a_table_that_the_demo_prints_and_a_plot() -> None:
    (table,) = re.findall(r"```text\n(.*?)```", README, re.S)
    for heading in HEADINGS[1:]:
        assert heading in table
    sweep = load_sweep(ROOT / "jobs" / "sweeps" / "demo.toml")
    assert len(re.findall(r"^ \w+ +\d CPU(?: \+ 1 PS)? +3 ", table, re.M)) == len(sweep.configurations)
    assert re.search(r"!\[.*\]\(docs/images/.*\.png\)", README)


def test_every_strategy_and_exit_code_is_explained() -> None:
    for name in STRATEGIES:
        assert f"| `{name}` |" in README
    rows = re.findall(r"^\| (\d[\d, ]*) \|", README, re.M)
    explained = {int(code) for row in rows for code in row.split(",")}
    assert explained == set(ExitCode)


def test_flags_and_names_in_the_docs_exist() -> None:
    flags = {"--help", "--debug", *OF_OTHERS}
    flags |= {flag for command in (*COMMANDS, "results.check", "results.compact") for flag in flags_of(command)}
    for path in DOCS:
        named = {*re.findall(r"(?<![\w-])--[a-z][\w-]*", path.read_text())}
        assert named <= flags, (path.name, named - flags)
    (row,) = re.findall(r"^\| `--optimizer` \|(.*)\|$", README, re.M)
    assert {*re.findall(r"`(\w+)`", row)} >= {*OPTIMIZERS}
    assert all(f"`{name}`" in README for name in SETS)


def test_the_table_of_faults_of_the_training_has_them_all_and_float64_sees_them() -> None:
    rows = re.findall(r"^\| (.+?) \| (\w+) \| .+? \| .+? \| (seen|\*\*not seen\*\*) \|", PROOF.read_text(), re.M)
    assert rows == [(fault.name, strategy, "seen") for fault in FAULTS for strategy in fault.strategies]


def test_the_base_case_is_explained_by_all_that_it_has_in_common() -> None:
    words = {"image_size": "image size", "num_classes": "classes", "dataset": "data", "data_digest": "data"}
    words |= {"classes": "part of it", "num_train_samples": "part of it", "trainable_params": "--freeze"}
    words |= {"num_batches_per_iter": "--num-batches-per-iter", "xla": "--xla"}
    words |= {"device_kind": "device", "device_name": "device", "cores_per_device": "cores per device"}
    (row,) = re.findall(r"^\| base case, T\(1\) \|(.*)\|$", (ROOT / "docs" / "metrics.md").read_text(), re.M)
    for name in LIKE_BASE_CASE:
        assert re.search(rf"(?<![\w-]){words.get(name, name)}", row), name


def test_columns_named_in_the_docs_exist() -> None:
    columns = {column.name for table in TABLES.values() for column in table}
    named = {*re.findall(rf"`({'|'.join(TABLES)})\.(\w+)`", "".join(path.read_text() for path in DOCS))}
    assert len(named) > 20
    for table, name in named:
        assert name in {column.name for column in TABLES[table]}, (table, name)
    text = "".join((ROOT / "docs" / name).read_text() for name in ("metrics.md", "convergence.md"))
    for name in re.findall(r"^\| `(\w+)`", text, re.M):
        assert name in columns | {"images_per_s", "images_per_s_per_device"}


def test_the_version_stands_in_one_place() -> None:
    assert "version =" not in (ROOT / "pyproject.toml").read_text().partition("[project]")[2].partition("[tool")[0]
    assert "http" not in "".join(path.read_text() for path in ROOT.glob("requirements*.lock"))
