"""What the design promises about the tree: who may import whom, and that nothing loads a framework early."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from strategies import ALIASES, STRATEGIES, load
from strategies.base import Strategy
from tests.benchmark import ROOT

PACKAGES = ("bench", "strategies", "jobs", "results", "analysis")
PROCESSES = ("cores", "cluster", "launch", "mpi", "launchers", "rendezvous", "watchdog")
MAY_IMPORT = {
    "results": {"results"},
    "jobs.cluster": set(),
    "jobs": {
        "jobs",
        "results.command_line",
        "results.exit_codes",
        "results.text",
        "results.third_party",
        "results.writing",
    },
    "jobs.sweep": {"jobs", "results"},
    "strategies": {"strategies", "jobs.cluster", "jobs.mpi", "bench.errors"},
    "bench": {"bench", "strategies", *(f"jobs.{part}" for part in PROCESSES), "results"},
    "analysis": {"analysis", "results"},
}
"""Module or package -> the modules and packages of ours that it may import; the longest key that fits counts."""


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if (ROOT / Path(*name.split("."))).with_suffix(".py").exists()}
            found |= {node.module} if len(found & names) < len(names) else set()
    return {name for name in found if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_imports_stay_within_the_design(module: str, path: Path) -> None:
    key = max((key for key in MAY_IMPORT if f"{module}.".startswith(f"{key}.")), key=len)
    allowed = MAY_IMPORT[key]
    for name in imports(path):
        assert any(f"{name}.".startswith(f"{good}.") for good in allowed), f"{module} imports {name}"


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_files_are_small_and_say_what_they_are(module: str, path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


HEAVY = "{'tensorflow', 'keras', 'pandas', 'pyarrow', 'duckdb', 'matplotlib', 'plotly', 'scipy', 'sklearn'}"


@pytest.mark.parametrize(
    "code",
    [
        "import bench, strategies, jobs, results, analysis",
        "import strategies; [strategies.load(name) for name in strategies.STRATEGIES]",
        "from bench.run import main; main(['--help'])",
        "from bench.run import main; main(['--strategy=mwms', '--num-workers=2', '--dry-run', '--device=cpu'])",
        "from jobs.sweep import main; main(['--help'])",
        "from bench.verify import main; main(['--help'])",
        "from bench.transfer import main; main(['--help'])",
        "from bench.doctor import main; main(['--help'])",
        "from bench.workloads.__main__ import main; main(['--help'])",
        "from bench.data import main; main(['--help'])",
        "from bench.data import main; main(['fetch'])",
        "from results.check import main; main(['--help'])",
        "from results.compact import main; main(['--help'])",
    ],
)
@pytest.mark.commands
def test_no_framework_is_loaded_before_a_strategy_runs(code: str) -> None:
    check = f"print('LOADED', sorted({HEAVY} & set(sys.modules)))"
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\n{check}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_nothing_outside_strategies_asks_which_strategy_it_is() -> None:
    for module, path in modules():
        if module.split(".")[0] == "strategies":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and "strategy" in ast.unparse(node.left):
                compared = {c.value for c in node.comparators if isinstance(c, ast.Constant)}
                assert not compared & {*STRATEGIES, *ALIASES}, f"{module}:{node.lineno}"


@pytest.mark.parametrize("name", [*STRATEGIES, *ALIASES])
def test_every_row_of_the_table_is_a_strategy(name: str) -> None:
    strategy = load(name)
    assert issubclass(strategy, Strategy)
    assert strategy.name == ALIASES.get(name, name)


def test_what_reads_the_store_never_unpickles() -> None:
    for module, path in modules():
        if module.split(".")[0] in ("results", "analysis"):
            names = {name.id for name in ast.walk(ast.parse(path.read_text())) if isinstance(name, ast.Name)}
            assert not names & {"pickle", "cloudpickle", "marshal", "shelve", "dill", "joblib"}, module
            assert "allow_pickle" not in path.read_text(), module
