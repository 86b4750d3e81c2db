"""Checks the Python that `make` makes the virtual environment of: `check_python.py [PYTHON OF .venv]`.

Runs under any Python 3, hence no newer syntax.
"""

import subprocess
import sys

_PACKAGES = (
    "Debian, Ubuntu: apt-get install python3 python3-venv; RHEL, Rocky: dnf install python3.11; "
    "SLES: zypper install python311"
)


def complaint(version: tuple, has_venv: bool, existing: str = "") -> str:  # type: ignore[type-arg] # Python 3.6 has no tuple[int, ...]
    """Returns why no virtual environment can be made, with the remedy, on one line; "" if one can be made.

    `existing` is the version of the Python of an environment that is there already.
    """
    number = "{}.{}".format(*version)
    if existing and existing != number:
        return (
            f".venv has Python {existing}, PYTHON names {number}: make clean, which removes .venv, and then this again"
        )
    if not (3, 10) <= version < (3, 14):
        return f"Python {number}: TrainScale needs 3.10 to 3.13. Name one, as make PYTHON=python3.11 ({_PACKAGES})"
    if not has_venv:
        return f"Python {number} has no venv module: apt-get install python{number}-venv, or name another with PYTHON="
    return ""


def main() -> int:
    """Prints the complaint, if there is one, and returns the exit code: 0, or 3."""
    try:
        import ensurepip  # noqa: F401 Debian packages it apart, and venv with it
        import venv  # noqa: F401
    except ImportError:
        has_venv = False
    else:
        has_venv = True
    existing = ""
    for python in sys.argv[1:]:
        words = [python, "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
        existing = subprocess.check_output(words, universal_newlines=True).strip()
    message = complaint(sys.version_info[:2], has_venv, existing)
    if message:
        print(message, file=sys.stderr)
    return 3 if message else 0


if __name__ == "__main__":
    sys.exit(main())
