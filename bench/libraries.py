"""The libraries that this process has loaded, and the versions that they say themselves: an installed package, or what
TensorFlow was built for, may be another."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.mpi import library_name

MAPS = Path("/proc/self/maps")
_CUDNN_9, _NCCL_2_9 = 90_000, 10_000
"""The first versions that are written with two digits more."""
_LONGEST = 8192
"""At least MPI_MAX_LIBRARY_VERSION_STRING of every MPI [characters]."""


def cuda(library: Any) -> str:
    """Return the version of a CUDA runtime, such as 12.5."""
    number = _by_reference(library.cudaRuntimeGetVersion)
    return f"{number // 1000}.{number % 1000 // 10}"


def cudnn(library: Any) -> str:
    """Return the version of a cuDNN, such as 9.3.0."""
    library.cudnnGetVersion.restype = ctypes.c_size_t
    return _dotted(int(library.cudnnGetVersion()), _CUDNN_9)


def nccl(library: Any) -> str:
    """Return the version of an NCCL, such as 2.21.5."""
    return _dotted(_by_reference(library.ncclGetVersion), _NCCL_2_9)


def mpi(library: Any) -> str:
    """Return the name of an MPI, such as `Open MPI v4.1.8`. Needs no MPI_Init (MPI 3.0, 8.1.1)."""
    text, length = ctypes.create_string_buffer(_LONGEST), ctypes.c_int()
    if code := library.MPI_Get_library_version(text, ctypes.byref(length)):
        raise OSError(f"MPI_Get_library_version returned {code}")
    return library_name(text.value.decode(errors="replace"))


ASK: dict[str, tuple[str, Callable[[Any], str]]] = {
    "cuda_version": (r"libcudart\.so", cuda),
    "cudnn_version": (r"libcudnn\.so", cudnn),
    "nccl_version": (r"libnccl\.so", nccl),
    "mpi_library": (r"libmpi(?:ch)?\.so", mpi),
}
"""Field of a record's provenance -> how the library's file name begins, and how the library is asked."""


def versions(names: tuple[str, ...], maps: Path = MAPS) -> dict[str, str | None]:
    """Return the versions of the libraries in `names` (of ASK), None for each that is not loaded."""
    return {name: _version(*ASK[name], maps) for name in names}


def _version(pattern: str, ask: Callable[[Any], str], maps: Path) -> str | None:
    paths = re.findall(rf"(/\S*/{pattern}\S*)$", maps.read_text(), re.MULTILINE)
    return ask(ctypes.CDLL(next(iter(paths)))) if paths else None


def _dotted(number: int, longer: int) -> str:
    major = 10_000 if number >= longer else 1000
    return f"{number // major}.{number % major // 100}.{number % 100}"


def _by_reference(function: Any) -> int:
    number = ctypes.c_int()
    if code := function(ctypes.byref(number)):
        raise OSError(f"{function.__name__} returned {code}")
    return number.value
