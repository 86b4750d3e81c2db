"""Packages that cannot be imported are one line and exit code 3, in every command; Keras's other backends too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import EnvironmentFault
from bench.frameworks import require_tensorflow_backend
from results.third_party import problem
from tests.benchmark import ROOT

RUN = ("bench.run", "--device=cpu", "--num-iters=1", "--model=lenet5")
REPORT = ("analysis.report", f"--results-dir={ROOT / 'tests' / 'fixtures' / 'schema-5'}")


def run(folder: Path, words: tuple[str, ...], **env: str) -> subprocess.CompletedProcess[str]:
    """A command whose Python finds the packages of `folder` first."""
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def stub(folder: Path, package: str, error: str) -> Path:
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(f"def check():\n    raise {error}\n\ncheck()\n")
    return folder


@pytest.mark.parametrize(
    ("package", "error", "words"),
    [
        ("tyro", "ImportError('no')", ("jobs.render",)),
        ("numpy", "RuntimeError('built for another\\n\\nNumPy')", ("bench.data", "check", ".")),
        ("rich", "AttributeError('no')", ("bench.workloads",)),
        ("psutil", "ImportError('no')", ("bench.doctor",)),
        ("pyarrow", "ImportError('pyarrow requires NumPy 2.0')", REPORT),
        ("pyarrow", "ImportError('pyarrow requires NumPy 2.0')", RUN),
        ("pandas", "AttributeError('no')", RUN),
        ("tensorflow", "TypeError('no')", RUN),
        ("keras", "ImportError('no')", ("bench.workloads", "lenet5", "--num-classes=5")),
    ],
)
@pytest.mark.commands
def test_the_package_is_named_with_its_own_error(
    tmp_path: Path, package: str, error: str, words: tuple[str, ...]
) -> None:
    done = run(stub(tmp_path, package, error), words)
    (line,) = done.stderr.splitlines()
    kind, _, said = error.rstrip("')").partition("('")
    assert line.startswith(f"{words[0]}: ")
    assert package in line.partition(" cannot be imported (")[0]
    assert f"cannot be imported ({kind}: {' '.join(said.encode().decode('unicode_escape').split())})" in line
    assert done.returncode == 3
    assert not list(tmp_path.glob("results/data/*/*"))  # nothing is recorded of a run that never began


@pytest.mark.commands
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run(stub(tmp_path, "psutil", "ImportError('no')"), ("bench.run", "--debug"))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


@pytest.mark.commands
def test_the_doctor_names_what_is_installed_and_cannot_be_imported(tmp_path: Path) -> None:
    for package, error in (("tensorflow", "AttributeError('of NumPy')"), ("pyarrow", "ImportError('wants NumPy')")):
        stub(tmp_path, package, error)
    done = run(tmp_path, ("bench.doctor",))
    found = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("fail")}
    assert "cannot be imported (AttributeError: of NumPy)" in found["TensorFlow"]
    assert "pyarrow" in found["packages"]
    assert "cannot be imported (ImportError: wants NumPy)" in found["packages"]
    assert "missing" not in done.stdout
    assert done.returncode == 3


def test_our_own_mistakes_are_not_taken_for_a_packages() -> None:
    for program in ("import bench.no_such_module", "from bench.errors import no_such_name", "import json; json.x"):
        with pytest.raises((ImportError, AttributeError)) as caught:
            exec(program)  # noqa: S102
        assert problem(caught.value) is None
    with pytest.raises(ImportError) as caught:
        exec("import no_such_package.part")  # noqa: S102
    line = problem(caught.value)
    assert line is not None
    assert line.startswith("no_such_package cannot be imported (ModuleNotFoundError: ")


@pytest.mark.parametrize("backend", ["torch", "jax", "numpy", "none such"])
@pytest.mark.commands
def test_another_backend_of_keras_is_refused_by_name(tmp_path: Path, backend: str) -> None:
    done = run(tmp_path, RUN, KERAS_BACKEND=backend)
    assert done.stderr == (
        f"bench.run: the environment sets KERAS_BACKEND to {backend!r}, and runs train with TensorFlow: "
        "unset KERAS_BACKEND\n"
    )
    assert done.returncode == 3


def test_so_is_one_of_keras_settings_file(tmp_path: Path) -> None:
    settings, env = tmp_path / "keras.json", {"KERAS_HOME": str(tmp_path)}
    settings.write_text('{"backend": "jax"}')
    with pytest.raises(EnvironmentFault, match=r"keras\.json' sets Keras's backend to 'jax'"):
        require_tensorflow_backend(env)
    for content in ('{"backend": "tensorflow"}', "{}", "[]", "no JSON"):
        settings.write_text(content)
        require_tensorflow_backend(env)
    settings.write_text('{"backend": "jax"}')
    require_tensorflow_backend(env | {"KERAS_BACKEND": "tensorflow"})
    settings.unlink()
    require_tensorflow_backend(env | {"KERAS_BACKEND": ""})
