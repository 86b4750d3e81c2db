"""Weights to begin with, from a file: Keras's `.weights.h5`, or the one inside a `.keras` archive.

A file is data. Of an archive the weights alone are read, never its configuration: to make objects of that is how files
of Keras run code (CVE-2026-1462 is one of many). And HDF5 would follow a file's links to other files, or unpack a few
bytes to terabytes; so every weight is looked up step by step, and read only if it is a plain array in this very file
and has the shape that the model wants. The layers then take their weights by Keras's own `load_own_variables`.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.config import MODEL_FILES
from bench.errors import BenchError, EnvironmentFault, UsageError, gist
from bench.workloads.freezing import layers_with_weights, named_layers

if TYPE_CHECKING:
    import h5py

H5, ARCHIVE = MODEL_FILES
_MEMBER = "model.weights.h5"
"""Where an archive keeps its weights."""

_AT_ONCE = 1 << 20
"""Bytes."""


def check(path: Path | None) -> None:
    """Raises UsageError for a file that is not there or is of no kind that can be read."""
    if path is None:
        return
    if not path.is_file():
        raise UsageError(f"--weights {str(path)!r}: no such file on this host; every process of the run reads it")
    if not path.name.endswith((H5, ARCHIVE)):
        legacy = path.suffix in (".h5", ".hdf5")
        raise UsageError(
            f"--weights {str(path)!r} ends neither in {H5} nor in {ARCHIVE}: "
            + (
                "Keras 2 wrote such files; load it into the model there, and write it anew by "
                f"model.save_weights('NAME{H5}')"
                if legacy
                else f"give what Keras 3 wrote by model.save_weights('NAME{H5}') or model.save('NAME{ARCHIVE}')"
            )
        )


def digest(path: Path) -> str:
    """SHA-256 of the file. Raises EnvironmentFault where it cannot be read."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(_AT_ONCE):
                found.update(part)
    except OSError as error:
        raise EnvironmentFault(f"--weights {str(path)!r} cannot be read: {error.strerror}") from None
    return found.hexdigest()


def load_weights(model: Any, path: Path, *, name: str, head: int, base_only: bool) -> str | None:
    """Gives a Keras model the weights of a file; with `base_only` all but its `head` last layers, which then stay as
    they are, whatever the file has for them, and what is returned says so.

    Raises UsageError for a file of another model than ours, which is called `name`, and EnvironmentFault for a file
    that is damaged or does more than hold weights.
    """
    layers = list(layers_with_weights(model))
    if sum(len(_own(layer)) for _, layer in layers) != len(model.weights):
        raise UsageError(f"--weights cannot be loaded into model {name!r}: it holds layers inside other layers")
    last = [at for at, _ in layers[len(layers) - head :]]
    with _opened(path) as file:
        stored = _Stored(file, path)
        unknown = stored.besides(model)
        misfits = {at: why for at, layer in layers if (why := stored.misfit(at, layer))}
        misfits |= {at: f"the file has layer {_short(at)}, which the model lacks" for at in unknown}
        of_head = {*last, *(at for at in unknown if _kind(at) in map(_kind, last))}
        of_base = [why for at, why in misfits.items() if at not in of_head]
        if of_base or (misfits and not base_only):
            raise UsageError(_refusal(path, name, of_base or [*misfits.values()], only_head=not of_base))
        for at, layer in layers:
            if not (base_only and at in last):
                layer.load_own_variables(stored.arrays(at, layer))
    if not base_only:
        return None
    random = ", ".join(map(_short, last))
    return f"Weights: the base of {name} is that of {path.name}, its classifier head begins at random: {random}"


def _refusal(path: Path, name: str, misfits: Sequence[str], *, only_head: bool) -> str:
    more = f" (and {len(misfits) - 1} more)" if misfits[1:] else ""
    remedy = (
        "the classifier head alone differs; --freeze base loads all but the head, which begins at random"
        if only_head
        else "give a file that this model wrote, or the --model that wrote this one"
    )
    return f"--weights {str(path)!r} does not fit model {name!r}: {misfits[0]}{more}: {remedy}"


class _Stored:
    """The weights in an HDF5 file that anybody may have made."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._file = file
        self._path = path

    def misfit(self, at: str, layer: Any) -> str | None:
        """How the weights that are stored for a layer differ from what it wants; None when they don't. Reads none."""
        wanted = _own(layer)
        with _reading(self._path):
            names = self._names(f"{at}/vars")
            if not names:
                return f"the file has no layer {_short(at)}"
            if names != {*wanted}:
                return f"layer {_short(at)} has {len(names)} weights in the file, {len(wanted)} in the model"
            for key, variable in wanted.items():
                array = self._array(f"{at}/vars/{key}")
                theirs = (array.shape, array.dtype.kind)
                if theirs != (tuple(variable.shape), np.dtype(variable.dtype).kind):
                    return (
                        f"{variable.name} of layer {_short(at)} is {array.dtype} {array.shape} in the file, "
                        f"{variable.dtype} {tuple(variable.shape)} in the model"
                    )
                if (stored := array.id.get_storage_size()) < array.nbytes:
                    raise _damaged(self._path, f"{at}/vars/{key} claims {array.nbytes} bytes and has {stored}")
        return None

    def besides(self, model: Any, inside: str = "") -> list[str]:
        """Layers of the file that hold weights and that the model lacks."""
        known = {f"{inside}{at}": layer for at, layer in named_layers(model)}
        with _reading(self._path):
            found = [f"{inside}layers/{name}" for name in sorted(self._names(f"{inside}layers"))]
            full = [
                at for at in found if at not in known and (self._names(f"{at}/vars") or self._names(f"{at}/layers"))
            ]
        models = {at: layer for at, layer in known.items() if hasattr(layer, "layers")}
        return full + [each for at, layer in models.items() for each in self.besides(layer, f"{at}/")]

    def arrays(self, at: str, layer: Any) -> dict[str, npt.NDArray[Any]]:
        """The weights of a layer that fits, by the names under which it saves them."""
        with _reading(self._path):
            return {
                key: np.asarray(self._array(f"{at}/vars/{key}")[()], np.dtype(variable.dtype))
                for key, variable in _own(layer).items()
            }

    def _names(self, at: str) -> set[str]:
        group = self._at(at)
        if group is None:
            return set()
        if not isinstance(group, Mapping):
            raise _damaged(self._path, f"{at} is no group")
        return {*group.keys()}

    def _array(self, at: str) -> Any:
        """An array of this file, of which nothing has been read."""
        import h5py

        array = self._at(at)
        if not isinstance(array, h5py.Dataset):
            raise _damaged(self._path, f"{at} is no array")
        if array.is_virtual or array.external:
            raise _damaged(self._path, f"{at} is made of other files' bytes")
        if array.chunks is not None:
            raise _damaged(self._path, f"{at} is packed or in pieces, as Keras writes none")
        return array

    def _at(self, path: str) -> Any:
        """The group or array at a path, None where there is none; no link is followed."""
        import h5py

        here: Any = self._file
        for name in path.split("/"):
            if not isinstance(here, h5py.Group):
                raise _damaged(self._path, f"{path} goes through what is no group")
            link = here.get(name, getlink=True)
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise _damaged(self._path, f"{path} is a link to elsewhere")
            here = here[name]
        return here


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    import h5py

    with path.open("rb") as plain:
        with _reading(path):
            file = h5py.File(_unpacked(plain) if path.name.endswith(ARCHIVE) else plain, "r")
        with file:
            yield file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (BenchError, MemoryError):
        raise
    except Exception as error:  # h5py and zipfile raise whatever a broken byte makes of a file
        raise _damaged(path, gist(str(error))) from error


def _unpacked(archive: IO[bytes]) -> IO[bytes]:
    """The weights of an archive, in a file that has no name."""
    with zipfile.ZipFile(archive) as members:
        info = members.getinfo(_MEMBER)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{_MEMBER} in it is compressed, as Keras writes none; unzip it, and name that file")
        whole = tempfile.TemporaryFile()  # noqa: SIM115 closed with the last reference to it
        with members.open(info) as member:
            shutil.copyfileobj(member, whole, _AT_ONCE)
        return whole


def _damaged(path: Path, why: str) -> EnvironmentFault:
    return EnvironmentFault(f"--weights {str(path)!r} cannot be used: {why}. Write or copy it again")


def _own(layer: Any) -> dict[str, Any]:
    """The variables of a layer, under the names by which it saves them."""
    own: dict[str, Any] = {}
    layer.save_own_variables(own)
    return own


def _kind(at: str) -> str:
    return at.rpartition("/")[2].rstrip("0123456789").removesuffix("_")


def _short(at: str) -> str:
    """`layers/functional/layers/conv2d_1` -> `functional/conv2d_1`."""
    return at.replace("layers/", "")
