"""The container definition, as far as it can be tested without Apptainer: read by Apptainer's rules, its scripts by a
shell, and what it names looked up in the checkout."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench.config import parse
from tests.benchmark import BOUND_S, ROOT, clean_environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFINITION = (ROOT / "jobs/images/trainscale.def").read_text()
ARGUMENT = re.compile(r"{{\s*(\w+)\s*}}")
DEVICES = ("cpu", "cuda")
SCRIPTS = ("post", "environment", "runscript", "test")
PREFIX = "/opt/trainscale"
"""Where the image has its Python environment."""


def sections(text: str) -> dict[str, str]:
    """Name -> body; the header is "". Apptainer begins a section at every line whose first word begins with %."""
    found = {"": ""}
    name = ""
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("%"):
            name = line.strip()[1:]
            assert name not in found, f"%{name} stands there twice"
            found[name] = ""
        else:
            found[name] += line
    return found


def defaults() -> dict[str, str]:
    lines = [line.strip() for line in sections(DEFINITION)["arguments"].splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def image(device: str) -> dict[str, str]:
    """The sections of one image, with the build arguments put in."""
    values = defaults() | {"DEVICE": device}
    return sections(ARGUMENT.sub(lambda found: values[found[1]], DEFINITION))


def shell(script: str, *, env: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-ex"], input=script, env=env, cwd=cwd, capture_output=True, text=True, timeout=BOUND_S, check=False
    )


def commands(text: str) -> list[list[str]]:
    """The words of each `python -m ...` in a text, without what stands in front of it."""
    joined = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line[line.index("python -m ") :]) for line in joined if "python -m " in line]


def test_it_has_these_sections_and_a_line_that_begins_with_a_percent_sign_begins_no_other() -> None:
    assert list(sections(DEFINITION)) == ["", "arguments", "files", *SCRIPTS, "labels", "help"]


def test_every_build_argument_has_a_default_and_is_used() -> None:
    assert set(defaults()) == set(ARGUMENT.findall(DEFINITION)) == {"DEVICE", "BOOTSTRAP", "BASE"}
    assert defaults()["DEVICE"] == DEVICES[0]


def test_no_build_argument_stands_behind_a_number_sign() -> None:
    """Apptainer leaves such a one as it is, be the number sign part of a comment or not."""
    for found in ARGUMENT.finditer(DEFINITION):
        line_begins = DEFINITION.rfind("\n", 0, found.start()) + 1
        assert "#" not in DEFINITION[line_begins : found.start()], found[0]


def test_the_base_is_asked_for_first() -> None:
    header = [line for line in image("cpu")[""].splitlines() if not line.startswith("#") and line]
    assert header == ["Bootstrap: docker", "From: debian:12-slim"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("section", SCRIPTS)
@pytest.mark.commands
def test_the_scripts_are_scripts(section: str, device: str) -> None:
    assert "{{" not in image(device)[section]
    checked = subprocess.run(
        ["sh", "-n"], input=image(device)[section], capture_output=True, text=True, timeout=BOUND_S, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(("device", "code"), [("cpu", 0), ("cuda", 0), ("gpu", 2), ("", 2)])
@pytest.mark.commands
def test_an_image_for_another_device_is_refused_before_anything_is_installed(device: str, code: int) -> None:
    beginning, end, rest = image(device)["post"].partition("esac\n")
    assert "apt-get" in rest
    done = shell(beginning + end, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == code
    assert (f"DEVICE={device}: must be cpu or cuda" in done.stderr.splitlines()) == (code != 0)


@pytest.mark.commands
def test_what_is_copied_and_what_is_taken_from_it_is_committed() -> None:
    """The image is made of the commit: the only folder that is copied is git's own."""
    copied = [line.split() for line in image("cpu")["files"].splitlines() if line.strip() and "#" not in line]
    assert copied == [[".git", "/opt/build/trainscale.git"]]
    assert "git clone --quiet trainscale.git source\n" in image("cpu")["post"]
    taken = re.findall(r"\bsource/(\S+)", image("cpu")["post"])
    assert taken == ["requirements.lock"]
    subprocess.run(["git", "ls-files", "--error-unmatch", *taken], cwd=ROOT, capture_output=True, check=True)


def test_what_pip_is_asked_for_is_what_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(word.partition(" @ ")[0]) for word in re.findall(r'"(\w+\[.*)"', image("cuda")["post"])]
    ours, tensorflow = asked
    assert ours.name == project["name"]
    assert ours.extras == {"mpi", "horovod"} <= set(project["optional-dependencies"])
    (cuda,) = map(Requirement, project["optional-dependencies"]["cuda"])
    assert (tensorflow.name, tensorflow.extras) == (cuda.name, cuda.extras)


@pytest.mark.parametrize("section", [*SCRIPTS, "help"])
def test_every_command_is_one_of_ours_with_flags_that_it_has(
    section: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for _, _, module, *flags in commands(image("cpu")[section]):
        found = find_spec(module)
        assert found is not None, module
        assert found.origin is not None
        assert Path(found.origin).is_relative_to(ROOT)
        if module == "bench.run":
            parse([] if flags == ["$@"] else flags)
        else:
            assert flags == []


@pytest.mark.commands
def test_the_environment_is_the_image_s_own() -> None:
    post, environment = image("cpu")["post"], image("cpu")["environment"]
    assert f"python3 -m venv {PREFIX}\n" in post
    shown = shell(f"{environment}\nenv", env={"PATH": "/usr/bin:/bin"}).stdout.splitlines()
    exported = dict(line.split("=", 1) for line in shown)
    assert exported["PATH"] == f"{PREFIX}/bin:/usr/bin:/bin"
    assert exported["OPAL_PREFIX"] == PREFIX
    # Hidden, not exported: Apptainer puts back what its script has not set, and takes away what is set to nothing.
    assert not {"PYTHONPATH", "PYTHONHOME", "PMIX_INSTALL_PREFIX"} & set(exported)
    for name in ("PYTHONPATH", "PYTHONHOME", "PMIX_INSTALL_PREFIX"):
        assert re.search(rf'^    (?:\w+="" )*{name}=""', environment, re.M)


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("mpirun", path=f"{sys.prefix}/bin") is None, reason="no mpirun: pip install '.[mpi]'")
def test_the_test_of_the_image_passes_in_this_environment(tmp_path: Path) -> None:
    """Its script runs as it stands, with this Python environment in the place of the image's."""
    script = (image("cpu")["environment"] + image("cpu")["test"]).replace(PREFIX, sys.prefix)
    # The checkout is not installed everywhere.
    script = script.replace('PYTHONPATH=""', f"PYTHONPATH={shlex.quote(str(ROOT))}; export PYTHONPATH;")
    done = shell(script, env=clean_environment() | {"TMPDIR": str(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^Strategy: (\w+), (\d) process", done.stdout, re.M) == [("single", "1"), ("horovod", "2")]
    assert list(tmp_path.iterdir()) == []
