"""Loads TensorFlow and Keras, once, the way a measuring process wants them."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from bench.errors import EnvironmentFault

_KERAS_LEAST = (3, 8)
"""Keras 3.4 does not sum gradients over replicas (keras issue 19308), 3.5 to 3.7 fail under other strategies."""

_OPTIONAL = ("matplotlib", "pandas", "scipy", "sklearn", "PIL")
"""Keras imports these where they are installed. Training needs none, and they cost 3 s and 180 MB a process."""


def preloaded() -> bool:
    """This process has TensorFlow loaded, so that its forks need not load it again."""
    return "tensorflow" in sys.modules


def load() -> None:
    """Imports TensorFlow and Keras. Raises EnvironmentFault when they are missing or known to train wrongly."""
    try:
        with _without_optional(), _without_garbage_collection():
            import keras
            import tensorflow  # noqa: F401
    except ImportError as error:
        raise EnvironmentFault(f"TensorFlow cannot be loaded ({error}): pip install -e .") from error
    version = tuple(int(part) for part in keras.__version__.split(".")[:2])
    if version < _KERAS_LEAST:
        raise EnvironmentFault(
            f"Keras {keras.__version__} does not train correctly under every strategy: pip install 'keras>=3.8'"
        )


def load_quietly() -> None:
    """The same, without what TensorFlow has to say then, unless it fails."""
    with quietly():
        load()


@contextmanager
def _without_optional() -> Iterator[None]:
    blocked = [name for name in _OPTIONAL if name not in sys.modules]
    # None in sys.modules makes an import of that name fail as if it were not installed.
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in blocked:
            del sys.modules[name]


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    # An import makes millions of objects that live on; collecting among them takes a tenth of the time.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


@contextmanager
def quietly() -> Iterator[None]:
    """TensorFlow chatters while it is loaded and first used, past Python: what it says is shown where that fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(terminal, 2)
            kept.seek(0)
            sys.stderr.write(kept.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
