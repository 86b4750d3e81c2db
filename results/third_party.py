"""Turns the error of a package that cannot be imported into one line, for every command."""

from __future__ import annotations

import sys
import traceback
from importlib import metadata
from types import TracebackType

from results.exit_codes import ExitCode

_OURS = ("analysis", "bench", "jobs", "results", "strategies", "tests")
_LONG = 300
"""Letters of a package's error that are shown; NumPy's are pages."""


def problem(error: BaseException) -> str | None:
    """One line with the remedy, where `error` comes from importing a package that is not ours; else None."""
    package = _failed_import(error)
    if package is None:
        return None
    message = " ".join(str(error).split())[:_LONG]
    return (
        f"{_with_version(package)} cannot be imported ({type(error).__name__}: {message}): "
        "install packages that work together, as make setup or pip install -e . does"
    )


def explain_failed_imports() -> None:
    """Has a command end with `problem` on one line and exit code 3, where it would end with a traceback.

    To be called by our packages when they are imported, which comes before anything else. Does nothing unless
    `python -m` runs a command of ours; with --debug the traceback stays.
    """
    if sys.argv[:1] == ["-m"] and "--debug" not in sys.argv:
        sys.excepthook = _complain


def _complain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    line = problem(error)
    if line is None:
        sys.__excepthook__(kind, error, trace)
        return
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    command = spec.name.removesuffix(".__main__") if spec else "python"
    print(f"{command}: {line}", file=sys.stderr)
    traceback.clear_frames(trace)  # DuckDB complains on exit of what is still referred to
    sys.exit(ExitCode.ENVIRONMENT)


def _failed_import(error: BaseException) -> str | None:
    """The package that was being imported when `error` was raised: of several, the innermost."""
    if not isinstance(error, Exception):
        return None
    package = error.name.partition(".")[0] if isinstance(error, ImportError) and error.name else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":
            name = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
            package = name if _is_third_party(name) else package
        trace = trace.tb_next
    return package if package and _is_third_party(package) else None


def _is_third_party(package: str) -> bool:
    return package not in _OURS and package not in sys.stdlib_module_names and package != "__main__"


def _with_version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:  # not installed, or under another name
        return package
