"""In one environment after another: the doctor finds a fault exactly where a run, as a user types it, fails.

Two strategies stand for all, and Horovod's probe is left out, to save loading TensorFlow.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench import short_runs
from tests.benchmark import MAY_MOUNT, ONEDNN, ROOT, SEVERAL_S, clean_environment, last_json

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

STRATEGIES = {"single": [], "mwms": ["--num-workers=2"]}

DOCTOR = f"""
import sys
from bench import doctor, probes
from bench.errors import EnvironmentFault
def absent():
    raise EnvironmentFault("left out")
installed = probes.installed
probes.installed = lambda package: None if package == "horovod" else installed(package)
doctor.horovod.require_build_for_tensorflow = absent
doctor._strategies = lambda: {[*STRATEGIES]}
sys.exit(doctor.main(sys.argv[1:]))
"""

PYARROW = """
raise ImportError("pyarrow requires NumPy 2.0 or newer, but found 1.26.4; upgrade NumPy or use an older pyarrow")
"""
"""The package's first file, as it ends under an old NumPy."""

NO_DRIVER = """
import pynvml
class Driver:
    def __getattr__(self, name):
        return lambda *_: pynvml.NVML_ERROR_DRIVER_NOT_LOADED
pynvml.nvmlLib = Driver()
"""

UNSEEN_GPU = """
import pynvml
from tests.emulated_nvml import H200, Driver
pynvml.nvmlLib = Driver([H200])
"""

MIB_OF_SHARED_MEMORY = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"', "sh")
ANOTHER_USER = "54321"
"""Without processes: the limit counts those of a user, and binds all but root. It may read what root may."""
FEW_THREADS = (
    *(
        "setpriv",
        f"--reuid={ANOTHER_USER}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--bounding-set=+dac_override",
    ),
    *("--ambient-caps=+dac_override", "prlimit", "--nproc=12"),
)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What differs from the environment of the tests, and whether runs work there."""

    works: bool
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    first_on_path: Mapping[str, str] = field(default_factory=dict)
    """Python files of a folder that is first on PYTHONPATH."""
    results: str = "results"


ENVIRONMENTS = {
    "oneDNN off": Environment(works=True, env={ONEDNN: "0"}),
    "another backend of Keras": Environment(works=False, env={"KERAS_BACKEND": "torch"}),
    "legacy Keras": Environment(works=True, env={"TF_USE_LEGACY_KERAS": "1"}),
    "no results directory": Environment(works=False, results="file/results"),
    "1 MiB of /dev/shm": Environment(works=True, prefix=MIB_OF_SHARED_MEMORY),
    "few threads": Environment(works=False, prefix=FEW_THREADS),
    "few open files": Environment(works=False, prefix=["prlimit", "--nofile=9"]),
    "pyarrow that needs a newer NumPy": Environment(works=False, first_on_path={"pyarrow/__init__.py": PYARROW}),
    "NVML without a driver": Environment(
        works=True, env={"CUDA_VISIBLE_DEVICES": "0"}, first_on_path={"sitecustomize.py": NO_DRIVER}
    ),
    "a GPU that TensorFlow does not see": Environment(
        works=False, env={"CUDA_VISIBLE_DEVICES": "0"}, first_on_path={"sitecustomize.py": UNSEEN_GPU}
    ),
}


def perform(environment: Environment, folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs Python with these words in an environment."""
    (folder / "file").touch()
    for name, text in environment.first_on_path.items():
        path = folder / "first" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    env = clean_environment() | {"PYTHONPATH": f"{folder / 'first'}:{ROOT}"} | environment.env
    command = [*environment.prefix, sys.executable, *words, f"--results-dir={folder / environment.results}"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SEVERAL_S, check=False)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_doctor_and_run_agree(name: str, tmp_path: Path) -> None:
    environment = ENVIRONMENTS[name]
    if environment.prefix[:1] in (("unshare",), ("setpriv",)) and not MAY_MOUNT:
        pytest.skip("needs root")
    tmp_path.chmod(0o777)
    doctor = perform(environment, tmp_path, ["-c", DOCTOR, "--json"])
    checks = {check["name"]: check for check in last_json(doctor.stdout)["nodes"][0]["checks"]}
    codes = {}
    for strategy, flags in STRATEGIES.items():
        words = ["-m", "bench.run", f"--strategy={strategy}", *flags, *short_runs.STEPS]
        run = perform(environment, tmp_path, words)
        codes[strategy] = run.returncode
        if environment.results == Environment.results:
            assert (checks[f"strategy {strategy}"]["status"] == "fail") == (run.returncode != 0), (checks, run.stderr)
    assert doctor.returncode == (3 if any(codes.values()) else 0), (checks, codes)
    assert any(codes.values()) != environment.works, (checks, codes)
