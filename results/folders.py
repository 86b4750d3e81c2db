"""Folders and files below a results directory: made with the user's umask, on disk when we say so, and never through a
link that somebody planted there.

Each name is opened in the folder that was opened before it, so nothing can be put in its place between two looks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp"
"""How the name of a file ends that is being written; it starts with a dot."""

_TRIES = 100

_LONGEST = 255
"""Bytes of a name that every usual file system takes."""


@contextlib.contextmanager
def opened(root: Path, *names: str, make: bool = True) -> Iterator[int]:
    """A descriptor of the folder of these names below `root`; with `make`, it and what is missing above it are made.

    Raises OSError, also for a link in place of a folder.
    """
    for attempt in range(_TRIES):
        with contextlib.ExitStack() as stack:
            try:
                folder = _descend(stack, root, names, make)
            except FileNotFoundError:  # another run's end has just removed a folder that it left empty
                if not make or attempt == _TRIES - 1:
                    raise
                continue
            yield folder
            return


def _descend(stack: contextlib.ExitStack, root: Path, names: tuple[str, ...], make: bool) -> int:
    if make:
        _make_root(root)
    folder, path = os.open(root, os.O_RDONLY | os.O_DIRECTORY), root
    stack.callback(os.close, folder)
    for name in names:
        path = path / component(name)
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder)
                os.fsync(folder)
        try:
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        except NotADirectoryError:
            reason = "is a link or a file where a folder belongs, and no link is followed: remove it"
            raise OSError(errno.ENOTDIR, reason, str(path)) from None
        stack.callback(os.close, folder)
    return folder


def _make_root(root: Path) -> None:
    missing = [root, *root.parents]
    missing = missing[: next((index for index, path in enumerate(missing) if path.is_dir()), len(missing))]
    root.mkdir(parents=True, exist_ok=True)
    for path in missing:  # each is an entry of the folder above it
        parent = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def component(name: str) -> str:
    """The name itself. Raises OSError for one that would lead out of its folder, or that no file can have."""
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(name.encode(errors="replace")) > _LONGEST:
        raise OSError(errno.EINVAL, "cannot be the name of a file of results: choose another", name)
    return name


@contextlib.contextmanager
def replaced(folder: int, name: str) -> Iterator[IO[bytes]]:
    """A file to write, which has its name when it is complete and on disk, and never exists when the block raises."""
    temporary = f".{component(name)}.{secrets.token_hex(4)}{TEMPORARY}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def is_temporary(name: str) -> bool:
    """Whether a file of this name was being written by `replaced`."""
    return name.startswith(".") and name.endswith(TEMPORARY)


def touch(folder: int, name: str) -> None:
    """Makes an empty file, if there is none."""
    os.close(os.open(component(name), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=folder))


def listed(folder: Path) -> list[str]:
    """The names in a folder at one moment, sorted; none where there is no such folder.

    A listing that is under way while files come and go may miss both the old and the new: two that agree do not.
    """
    before: list[str] | None = None
    while True:
        try:
            names = sorted(path.name for path in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        if names == before:
            return names
        before = names
