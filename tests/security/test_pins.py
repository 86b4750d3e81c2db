"""The locks: whole, with hashes, in step with pyproject.toml, and without versions that are known to be vulnerable.

What needs a database of vulnerabilities is `make audit`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.benchmark import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCKS = {"requirements.lock": {"mpi", "horovod"}, "requirements-dev.lock": {"mpi", "horovod", "dev"}}
"""Lock -> the extras that `make lock` locks in it."""
ADVISORIES = tomllib.loads((ROOT / "tests" / "advisories.toml").read_text())
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def pins(text: str) -> list[tuple[Requirement, int]]:
    """(requirement, number of its hashes) of each pin of a lock."""
    entries = re.split(r"\n(?=\S)", text.strip())
    found = [re.sub(r"--hash=sha256:[0-9a-f]{64}|\\\n", "", entry).strip() for entry in entries]
    return [(Requirement(line), entry.count("--hash=sha256:")) for line, entry in zip(found, entries, strict=True)]


def vulnerable(text: str) -> list[str]:
    return [
        f"{requirement.name} {version}: {', '.join(known['advisories'])}; {known['safe']} is safe"
        for requirement, _ in pins(text)
        if (known := ADVISORIES.get(canonicalize_name(requirement.name)))
        and (version := exact(requirement)) < Version(known["safe"])
    ]


def exact(requirement: Requirement) -> Version:
    (one,) = requirement.specifier
    assert one.operator == "=="
    return Version(one.version)


@pytest.fixture(scope="module", params=LOCKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lock(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_pin_is_exact_and_has_hashes(lock: str) -> None:
    found = pins(lock)
    assert len(found) > 50
    assert [str(requirement) for requirement, hashes in found if not exact(requirement) or not hashes] == []


def test_no_pin_is_known_to_be_vulnerable(lock: str) -> None:
    assert vulnerable(lock) == []


def test_a_vulnerable_pin_would_be_found() -> None:
    (said,) = vulnerable("Jinja2==3.1.5 \\\n    --hash=sha256:" + "0" * 64 + "\nnumpy==2.0.0 ; python_version < '3.11'")
    assert said.startswith("Jinja2 3.1.5: CVE-2024-56326, CVE-2025-27516; 3.1.6 is safe")


def test_what_is_known_is_of_packages_that_are_locked(lock: str) -> None:
    names = {canonicalize_name(requirement.name) for requirement, _ in pins(lock)}
    assert {*ADVISORIES} <= names
    assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}", each) for known in ADVISORIES.values() for each in known["advisories"])


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_what_the_project_asks_for(name: str, lock: str, python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(text) for text in [*project["dependencies"], *(e for x in LOCKS[name] for e in extras[x])]]
    place = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}

    def here(marker: Marker | None) -> bool:
        return marker is None or marker.evaluate(place)

    versions = {canonicalize_name(one.name): exact(one) for one, _ in pins(lock) if here(one.marker)}
    missing = [
        str(one)
        for one in asked
        if here(one.marker) and not one.specifier.contains(versions.get(canonicalize_name(one.name), Version("0")))
    ]
    assert missing == []


def test_what_runs_is_tested_with_the_same_pins() -> None:
    """The development lock holds every pin of the other, with its hashes: installing it changes none of them."""
    entries = [{*re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())} for name in LOCKS]
    assert len(entries[0]) > 50
    assert entries[0] < entries[1]


@pytest.mark.commands
def test_the_lock_is_made_of_these_extras(name: str) -> None:
    done = subprocess.run(["make", "-n", "lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    (command,) = re.findall(rf"uv pip compile .* -o {name}$", done.stdout, re.M)
    assert {*re.findall(r"--extra (\w+)", command)} == LOCKS[name]


def test_set_up_insists_on_hashes(name: str) -> None:
    assert f"--require-hashes -r {name}" in Path(ROOT / "Makefile").read_text()
