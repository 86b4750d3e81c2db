"""Who may change what is in a store already: one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from results import folders
from results.store import StoreError

LOCK = ".maintenance"

_NO_LOCK = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Where nothing can be locked, or not by us: looking is safe all the same."""


@contextlib.contextmanager
def alone(root: Path, *, changing: bool) -> Iterator[None]:
    """While the block runs, nobody else changes what the store holds; runs are written all the while.

    Without `changing` others may look too, and a store that may only be read is not locked. Raises StoreError.
    """
    if not root.is_dir():
        raise StoreError(f"there is no results directory {str(root)!r}: name one with --results-dir")
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(folders.opened(root, make=False))
            lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=folder)
            stack.callback(os.close, lock)
            fcntl.flock(lock, (fcntl.LOCK_EX if changing else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"another results.compact or results.check is at work on {str(root)!r}: wait until it has ended"
            ) from None
        except OSError as error:
            if changing or error.errno not in _NO_LOCK:
                raise StoreError(
                    f"results directory {str(root)!r} cannot be locked ({error.strerror}): use a machine and a user "
                    "that can write and lock files there"
                ) from None
        yield
