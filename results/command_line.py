"""Command lines of frozen dataclasses: tyro reads them, a TOML file may stand in for flags, an error is one line."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


class Refused(Exception):
    """A command line or a settings file that cannot be used; one line with the remedy."""

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
