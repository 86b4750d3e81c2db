"""Every command of docs/cluster.md on the test cluster, in the document's order, in a folder like a checkout's."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from jobs.site import Site
from tests.benchmark import ROOT, SMALL, clean_environment
from tests.slurm.cluster import SlurmCluster

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCUMENT = (ROOT / "docs" / "cluster.md").read_text()
BOUND_S = 400


@pytest.mark.processes
@pytest.mark.timeout(BOUND_S + 60)
def test_every_command_of_the_cluster_guide_works(slurm: SlurmCluster, tmp_path: Path) -> None:
    """As they stand, where the sweep that runs every night is a small one, and jobs may share nodes."""
    (tmp_path / "jobs" / "sweeps").mkdir(parents=True)
    (tmp_path / "jobs" / "reframe").symlink_to(ROOT / "jobs" / "reframe")
    for path in (ROOT / "jobs" / "sweeps").glob("*.toml"):
        text = path.read_text()
        if path.stem == "regression":
            for flag in SMALL:
                name, _, value = flag.removeprefix("--").replace("-", "_").partition("=")
                text = re.sub(rf"^{name} = .*\n", "", text, flags=re.M)
                given = f'"{value}"' if name == "device" else value
                text = text.replace("[settings]", f"[settings]\n{name} = {given}") if name != "batch_size" else text
            text = re.sub(r"^repeats = .*", "repeats = 1", text, flags=re.M)
            text = re.sub(r".*vgg16_cifar.*\n", "", text)
        (tmp_path / "jobs" / "sweeps" / path.name).write_text(text)
    home = tmp_path / "home"
    (home / ".config" / "trainscale").mkdir(parents=True)
    (home / ".config" / "trainscale" / "site.toml").write_text("shared = true\n")
    here = str(Path(sys.executable).parent)
    env = clean_environment() | {"HOME": str(home), "PATH": f"{here}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.S)
    commands = [line for block in blocks for line in block.splitlines()]
    assert {line.split()[0] for line in commands} == {"srun", "python", "reframe"}
    for line in commands:
        done = slurm.call("bash", "-c", line, env=env, timeout=BOUND_S, folder=tmp_path)
        # One run a side is all that there is time for, and the gate says that it cannot tell.
        expected = 5 if "--baseline=" in line else 0
        assert done.returncode == expected, (line, done.stdout, done.stderr)
        if " jobs.render " in line:
            (tmp_path / "job.sh").write_text(done.stdout)
            tested = slurm.call("sbatch", "--test-only", str(tmp_path / "job.sh"), env=env)
            assert tested.returncode == 0, tested.stderr
    runs = pd.read_parquet(tmp_path / "results" / "data" / "runs")
    assert set(runs["status"]) == {"ok"}
    assert len(runs) == 1 + 2 * 3
    nightly = runs[runs["experiment"].str.startswith("nightly-")]
    assert sorted(nightly["num_nodes"]) == [1, 2, 2]
    for name in ("report", "history"):
        assert (tmp_path / "results" / "reports" / "nightly" / f"{name}.html").exists()
    assert (tmp_path / "results" / "baselines" / "cluster.json").exists()


def test_the_example_of_a_site_profile_is_one() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.S)
    settings = tomllib.loads(text)
    assert set(settings) <= set(Site.__dataclass_fields__)


def test_every_sweep_that_ships_is_named() -> None:
    for path in (ROOT / "jobs" / "sweeps").glob("*.toml"):
        assert f"`{path.name}`" in DOCUMENT
