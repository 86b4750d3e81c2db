"""What our packages never do. Ruff's S rules look for most of it; here is what they don't see, and that they are on."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.benchmark import ROOT
from tests.test_architecture import modules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORBIDDEN = {
    *("os.system", "os.popen", "eval", "exec", "compile", "marshal.loads", "marshal.load", "shelve.open"),
    *("pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "pd.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("tempfile.mktemp", "os.chmod", "asyncio.create_subprocess_shell"),
}
KEYWORDS = {"shell": {False}, "allow_pickle": {False}, "safe_mode": {True}, "enable_unsafe_deserialization": set()}
"""Keyword -> the values that it may have."""


def calls(source: str) -> Iterator[str]:
    """What of a source is forbidden."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in FORBIDDEN or name.endswith((".chmod", "load_model", "model_from_json", "deserialize_keras_object")):
            yield f"line {node.lineno}: {name}"
        for keyword in node.keywords:
            allowed = KEYWORDS.get(keyword.arg or "")
            if allowed is not None and getattr(keyword.value, "value", None) not in allowed:
                yield f"line {node.lineno}: {keyword.arg}"
        if name == "np.load" and "allow_pickle" not in {keyword.arg for keyword in node.keywords}:
            yield f"line {node.lineno}: np.load without allow_pickle=False"


def test_no_shell_no_pickle_no_code_from_data() -> None:
    found = {module: list(calls(path.read_text())) for module, path in modules()}
    assert {module: lines for module, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=wanted)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(data)",
        "keras.models.load_model(path)",
        "load(path, safe_mode=False)",
        "path.chmod(0o777)",
    ],
)
def test_what_is_forbidden_is_found(source: str) -> None:
    assert len(list(calls(source))) == 1


def test_the_rules_of_the_linter_that_guard_this_are_on() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert {rule for rule in lint["ignore"] if rule.startswith("S")} == {"S101", "S311", "S603", "S607"}
    files = {pattern: rule for pattern, rules in lint["per-file-ignores"].items() for rule in rules if rule[0] == "S"}
    assert files == {"tests/**": "S101", "analysis/{diagnosis,load,tables}.py": "S608"}
