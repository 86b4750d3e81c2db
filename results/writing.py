"""Files that appear whole."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to be written, which takes the place of `path` at the end of the block, and none after an exception.

    What stands at `path` is replaced, never written through: it may be a link that somebody planted in a folder that
    others can write to. The new file's name cannot be foreseen and has the same suffixes, and its mode is what the
    umask leaves. Raises OSError for a pipe, a device and all of /dev: root must not put a file in place of /dev/null.
    """
    if _is_special(path):
        raise OSError(errno.EINVAL, "is no file that could be replaced: name another", str(path))
    temporary = path.with_name(f".{secrets.token_hex(8)}{''.join(path.suffixes)}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    if path.parent.resolve() == Path("/dev"):
        return True
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except FileNotFoundError:
        return False
    return kind not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR)
