"""Command lines of frozen dataclasses: tyro reads them, a TOML file may stand in for flags, an error is one line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
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

_DEEPEST = 8
"""Levels of a settings file; ours need four."""


class Refused(Exception):
    """What was asked for cannot be done, as with a flag or a settings file that cannot be used; one line with the
    remedy."""

    exit_code = 2


def parse(options: type[T], prog: str, words: Sequence[str]) -> T:
    """The options of a command line. Raises Refused; exits as tyro does for --help, also where its reader has gone."""
    if strange := next((word for word in words if not _is_text(word)), None):
        raise Refused(f"{strange[:80]!r} is no text in UTF-8 without U+0000: results could not be recorded with it")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), outliving_readers():
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
        with outliving_readers():
            return work(parse(options, f"python -m {prog}", argv))
    except (Refused, StoreError) as error:
        return complain(prog, error, error.exit_code)
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename is not None else ""
        return complain(prog, f"cannot read or write{where}: {error.strerror or error}", ExitCode.USAGE)
    except KeyboardInterrupt:
        return complain(prog, "interrupted", ExitCode.SIGINT)


@contextlib.contextmanager
def outliving_readers() -> Iterator[None]:
    """Here a reader of standard output who has seen enough ('| head', '| grep -q'), or a terminal that is gone, changes
    nothing: what nobody hears is dropped, and the work goes on to its end and its exit code."""
    said = sys.stdout
    try:
        number = said.fileno()
    except (AttributeError, OSError):  # closed from the start, or a test listens
        yield
        return
    said.flush()
    buffer = io.BufferedWriter(_Output(number, "wb", closefd=False))
    at_once = said.isatty() or getattr(said, "write_through", False)  # python -u
    sys.stdout = io.TextIOWrapper(buffer, said.encoding, said.errors, line_buffering=at_once)
    try:
        yield
    finally:
        outlived, sys.stdout = sys.stdout, said
        outlived.close()


class _Output(io.FileIO):
    """A descriptor that takes everything, for as long as it is open."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def complain(prog: str, error: object, code: int) -> int:
    """Says on one line of standard error what is wrong, whatever words of a user or a file are in it; returns the exit
    code."""
    print(f"{prog}: {' '.join(printable(error).split())}", file=sys.stderr)
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
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"{what} {str(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"{what} {str(path)!r} is not TOML: {error}") from None
    if why := _unusable(settings):
        raise Refused(f"{what} {str(path)!r} {why}")
    return settings


def _unusable(settings: dict[str, Any]) -> str | None:
    """Why a settings file is of no use, though it may be TOML: no flag can be given what is in it."""
    left: list[tuple[Any, int]] = [(settings, 0)]
    while left:
        value, depth = left.pop()
        if depth > _DEEPEST:
            return f"holds tables and lists in each other, more than {_DEEPEST} of them"
        if isinstance(value, str) and not _is_text(value):
            return f"holds the text {value[:80]!r}: U+0000 cannot stand on a command line"
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            return "holds a number of more than 64 bits"
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        left += [(each, depth + 1) for each in inside]
    return None


def _is_text(word: str) -> bool:
    """Whether Python did not have to make up a character for a byte, and the system takes it as a word."""
    return "\0" not in word and word.encode(errors="replace").decode() == word


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
    """What the command line gives for a flag, before it is parsed; as there underscores are dashes, and the last one
    counts."""
    found = None
    for index, word in enumerate(words):
        given, equals, value = word.partition("=")
        if given.replace("_", "-") == flag(name):
            found = value if equals else words[index + 1] if index + 1 < len(words) else None
    return found
