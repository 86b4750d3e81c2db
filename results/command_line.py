"""Command lines of frozen dataclasses: tyro reads them, a TOML file may stand in for flags, an error is one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from results.exit_codes import ExitCode
from results.store import StoreError
from results.text import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


class Refused(Exception):
    """What was asked for cannot be done, as with a flag or a settings file that cannot be used; one line with the
    remedy."""

    exit_code = 2


def parse(options: type[T], prog: str, words: Sequence[str]) -> T:
    """The options of a command line. Raises Refused; exits as tyro does for --help."""
    for word in words:
        if not word.isascii() and word != word.encode(errors="replace").decode():
            raise Refused(f"{word!r} is not UTF-8 text, and what is not could not be recorded: give another")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options, prog=prog, args=list(words))
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box for people; here an error is one line.
        text = re.sub(r"[^\x20-\x7e]+|-{3,}", " ", said.getvalue().replace("\n", " ")).partition("For full helptext")[0]
        raise Refused(f"{' '.join(text.split())}; see --help") from None


def perform(prog: str, options: type[T], argv: Sequence[str], work: Callable[[T], int]) -> int:
    """Parses the command line of `python -m PROG`, does the work and returns the exit code; every error is one line.

    `work` loads what is slow to load, so that --help and a mistyped flag are answered before.
    """
    try:
        code = work(parse(options, f"python -m {prog}", argv))
        sys.stdout.flush()  # here a reader that has gone can be met
        return code
    except (Refused, StoreError) as error:
        return complain(prog, str(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough ('| head'); what is still buffered must not raise again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename is not None else ""
        return complain(prog, f"cannot read or write{where}: {error.strerror or error}", ExitCode.USAGE)
    except KeyboardInterrupt:
        return complain(prog, "interrupted", ExitCode.SIGINT)


def complain(prog: str, text: str, code: int) -> int:
    """Says on one line of standard error what is wrong; returns the exit code."""
    # A name from a store may hold anything; a line stays a line.
    print(f"{prog}: {' '.join(printable(text).split())}", file=sys.stderr)
    return code


def flag(name: str) -> str:
    """`num_iters` -> `--num-iters`."""
    return "--" + name.replace("_", "-")


def words_of(name: str, value: Any) -> list[str]:
    """A setting as words of a command line: a switch is there or not, a list repeats its flag, a table gives
    NAME=VALUE; each value is in the same word as its flag, for it may start with a dash. Raises Refused."""
    if isinstance(value, bool):
        return [flag(name)] if value else []
    if isinstance(value, dict):
        value = [f"{key}={text}" for key, text in value.items()]
    words = [f"{flag(name)}={each}" for each in (value if isinstance(value, list) else [value])]
    if any("\0" in word for word in words):
        raise Refused(f"{flag(name)} holds a NUL character, which no command line can: leave it out")
    return words


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The settings of a file that `what` names in errors. Raises Refused."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise Refused(f"{what} {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{what} {str(path)!r} is not TOML: {error}") from None


def file_words(
    path: Path, what: str, known: Collection[str], unknown: Callable[[str], str], *, plain: bool
) -> list[str]:
    """The settings of a TOML file as flags, to stand before those of the command line, which then win.

    `known` holds field names; `unknown` words the error for any other. With `plain` a setting has one value. Raises
    Refused.
    """
    words: list[str] = []
    for key, value in read_toml(path, what).items():
        name = key.replace("-", "_")
        if name not in known:
            raise Refused(f"{path}: {unknown(key)}")
        if plain and isinstance(value, dict | list):
            raise Refused(f"{path}: {key} is {value!r}: a setting has one value")
        words += words_of(name, value)
    return words


def value_of(words: Sequence[str], name: str) -> str | None:
    """What the command line gives for a flag, before it is parsed; the last one counts."""
    found = None
    for index, word in enumerate(words):
        if word == flag(name):
            found = words[index + 1] if index + 1 < len(words) else None
        elif word.startswith(f"{flag(name)}="):
            found = word.partition("=")[2]
    return found
