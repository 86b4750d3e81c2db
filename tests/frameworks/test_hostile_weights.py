"""Files of weights that somebody made to read, fill or break more than a model."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bench import frameworks
from bench.errors import BenchError, EnvironmentFault, UsageError
from bench.workloads.weights import load_weights
from tests.frameworks.test_weights import model, values

frameworks.load()

KERNEL = "layers/conv2d/vars/0"
SHAPE = (3, 3, 1, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file, to be spoiled."""
    model(3).save_weights(tmp_path / "one.weights.h5")
    return tmp_path / "one.weights.h5"


def refused(path: Path, kind: type[BenchError] = EnvironmentFault) -> str:
    """What is said of it, in one line, by a model that keeps its own weights."""
    ours = model(3)
    before = values(ours)
    with pytest.raises(kind) as caught:
        load_weights(ours, path, name="m", head=1, base_only=True)
    assert "\n" not in str(caught.value)
    assert all((old == new).all() for old, new in zip(before, values(ours), strict=True))
    return str(caught.value)


def link_outside(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as other:
        other["numbers"] = np.ones(SHAPE, np.float32)
    file[KERNEL] = h5py.ExternalLink(str(folder / "secret.h5"), "numbers")


def link_inside(file: h5py.File, _folder: Path) -> None:
    file["elsewhere"] = np.ones(SHAPE, np.float32)
    file[KERNEL] = h5py.SoftLink("/elsewhere")


def bytes_of_another_file(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(72))
    file.create_dataset(KERNEL, SHAPE, np.float32, external=[(str(folder / "secret"), 0, 72)])


def virtual(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as other:
        other["numbers"] = np.ones(SHAPE, np.float32)
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "numbers", SHAPE)
    file.create_virtual_dataset(KERNEL, layout)


def packed(file: h5py.File, _folder: Path) -> None:
    file.create_dataset(KERNEL, SHAPE, np.float32, compression="gzip", data=np.zeros(SHAPE))


def chunk_of_a_gigabyte(file: h5py.File, _folder: Path) -> None:
    file.create_dataset(KERNEL, SHAPE, np.float32, maxshape=(None,) * 4, chunks=(1 << 28, 1, 1, 1))


def never_written(file: h5py.File, _folder: Path) -> None:
    file.create_dataset(KERNEL, SHAPE, np.float32)


def group(file: h5py.File, _folder: Path) -> None:
    file.create_group(KERNEL)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (link_outside, f"{KERNEL} is a link to elsewhere"),
        (link_inside, f"{KERNEL} is a link to elsewhere"),
        (bytes_of_another_file, f"{KERNEL} is made of other files' bytes"),
        (virtual, f"{KERNEL} is made of other files' bytes"),
        (packed, f"{KERNEL} is packed or in pieces"),
        (chunk_of_a_gigabyte, f"{KERNEL} is packed or in pieces"),
        (never_written, f"{KERNEL} claims 72 bytes and has 0"),
        (group, f"{KERNEL} is no array"),
    ],
)
def test_what_is_no_plain_array_of_this_file_is_not_read(path: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    with h5py.File(path, "a") as file:
        del file[KERNEL]
        spoil(file, tmp_path)
    assert said in refused(path)


@pytest.mark.parametrize("place", ["layers", "layers/conv2d", "layers/conv2d/vars", "layers/stranger"])
def test_a_group_that_is_a_link_is_not_followed(path: Path, tmp_path: Path, place: str) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x/vars/0"] = np.ones(3)
    with h5py.File(path, "a") as file:
        if place in file:
            del file[place]
        file[place] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
    assert "is a link to elsewhere" in refused(path)


def test_a_small_file_that_claims_terabytes_allocates_nothing(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file[KERNEL]
        file.create_dataset(KERNEL, (1 << 40, 3, 1, 2), np.float32, chunks=(1, 3, 1, 2))
    assert path.stat().st_size < 1 << 20
    assert "is packed or in pieces" in refused(path)
    with h5py.File(path, "a") as file:
        del file[KERNEL]
        file.create_dataset(KERNEL, (1 << 40, 3, 1, 2), np.float32)
    assert "float32 (1099511627776, 3, 1, 2) in the file" in refused(path, UsageError)


def test_a_group_that_holds_itself_ends(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["layers/stranger"] = file["layers"]
        file["layers/stranger/layers"] = file["layers"]
    assert "which the model lacks (and 1 more)" in refused(path, UsageError)


@pytest.mark.parametrize("kind", ["S72", "c8", "i4", "V4"])
def test_what_are_no_floats_are_refused(path: Path, kind: str) -> None:
    with h5py.File(path, "a") as file:
        del file[KERNEL]
        file[KERNEL] = np.zeros(SHAPE, kind)
    assert f"kernel of layer conv2d is {np.dtype(kind)} " in refused(path, UsageError)


class Planted:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def archive(path: Path, weights: bytes, **more: Any) -> Path:
    """A .keras archive whose configuration would run code if anybody made a model of it."""
    config = f"""{{"class_name": "Lambda", "config": {{"function": "__import__('os').mknod('{path}.planted')"}}}}"""
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("config.json", config)
        members.writestr("metadata.json", pickle.dumps(Planted(path.with_suffix(".planted"))))
        members.writestr("../../escaped", b"x")
        members.writestr("model.weights.h5", weights, **more)
    return path


def test_of_an_archive_the_weights_alone_are_read(path: Path, tmp_path: Path) -> None:
    ours = model(3)
    made = archive(tmp_path / "one.keras", path.read_bytes())
    assert load_weights(ours, made, name="m", head=1, base_only=False) is None
    assert {each.name for each in tmp_path.iterdir()} == {"one.keras", "one.weights.h5"}
    assert not (tmp_path.parent / "escaped").exists()


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    made = archive(tmp_path / "one.keras", bytes(1 << 27), compress_type=zipfile.ZIP_DEFLATED)
    assert made.stat().st_size < 1 << 18
    assert "model.weights.h5 in it is compressed" in refused(made)


def test_an_archive_without_weights_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.keras", "w") as members:
        members.writestr("config.json", "{}")
    assert "There is no item named 'model.weights.h5'" in refused(tmp_path / "one.keras")


def test_a_damaged_archive_is_found_by_its_checksum(path: Path, tmp_path: Path) -> None:
    made = archive(tmp_path / "one.keras", path.read_bytes())
    broken = bytearray(made.read_bytes())
    broken[len(broken) // 2] ^= 1
    made.write_bytes(broken)
    assert "Bad CRC-32" in refused(made)


def test_a_truncated_file_is_one_line(path: Path) -> None:
    whole = path.read_bytes()
    for part in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:part])
        assert "cannot be used: " in refused(path)


def test_flipped_bits_make_an_error_or_other_numbers(path: Path) -> None:
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    ours = model(3)
    outcomes = set()
    for _ in range(150):
        broken = bytearray(whole)
        for place in random.integers(len(whole), size=3):
            broken[place] ^= 1 << int(random.integers(8))
        path.write_bytes(broken)
        try:
            outcomes.add(load_weights(ours, path, name="m", head=1, base_only=False) is None)
        except (EnvironmentFault, UsageError) as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert {True, "refused"} <= outcomes
