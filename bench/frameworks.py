"""Loads TensorFlow and Keras, once, the way a measuring process wants them."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.errors import EnvironmentFault, naming_failed_imports

_KERAS_LEAST = (3, 8)
"""Keras 3.4 does not sum gradients over replicas (keras issue 19308), 3.5 to 3.7 fail under other strategies."""

_BACKEND = "tensorflow"

_OPTIONAL = ("matplotlib", "pandas", "scipy", "sklearn", "PIL")
"""Keras imports these where they are installed. Training needs none, and they cost 3 s and 180 MB a process."""


def preloaded() -> bool:
    """This process has TensorFlow loaded, so that its forks need not load it again."""
    return "tensorflow" in sys.modules


def load() -> None:
    """Imports TensorFlow and Keras. Raises EnvironmentFault when they cannot be imported, are known to train wrongly,
    or when Keras is set to another backend."""
    require_tensorflow_backend(os.environ)
    with naming_failed_imports(), _without_optional(), _without_garbage_collection():
        import keras
        import tensorflow  # noqa: F401
    version = tuple(int(part) for part in keras.__version__.split(".")[:2])
    if version < _KERAS_LEAST:
        raise EnvironmentFault(
            f"Keras {keras.__version__} does not train correctly under every strategy: pip install 'keras>=3.8'"
        )


def require_tensorflow_backend(env: Mapping[str, str]) -> None:
    """Raises EnvironmentFault where a variable or Keras's settings file sets Keras to a backend that is not TensorFlow.
    Loads neither."""
    needs = "and runs train with TensorFlow"
    if backend := env.get("KERAS_BACKEND"):
        if backend != _BACKEND:
            raise EnvironmentFault(f"the environment sets KERAS_BACKEND to {backend!r}, {needs}: unset KERAS_BACKEND")
        return
    path = _keras_home(env) / "keras.json"
    try:
        backend = json.loads(path.read_text(encoding="utf-8")).get("backend", _BACKEND)
    except (OSError, ValueError, AttributeError):  # Keras reads no such file either
        return
    if backend != _BACKEND:
        raise EnvironmentFault(
            f"{str(path)!r} sets Keras's backend to {backend!r}, {needs}: export KERAS_BACKEND=tensorflow"
        )


def _keras_home(env: Mapping[str, str]) -> Path:
    """The folder of Keras's settings, as Keras finds it."""
    if folder := env.get("KERAS_HOME"):
        return Path(folder)
    home = os.path.expanduser("~")  # noqa: PTH111 -- Path.expanduser raises for a user without a home
    return Path(home if os.access(home, os.W_OK) else tempfile.gettempdir()) / ".keras"


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
