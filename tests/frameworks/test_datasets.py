from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from bench.errors import EnvironmentFault, UsageError
from bench.workloads.datasets import DATASETS, Dataset, Images
from bench.workloads.order import evaluation_batches, sample_order
from strategies.base import Shard

SHAPE = (28, 28, 1)


def test_synthetic_images_are_functions_of_seed_and_index() -> None:
    one, again, other = (DATASETS["synthetic"].load(None, SHAPE, seed) for seed in (1, 1, 2))
    assert one.pixels.shape == (2048, *SHAPE)
    assert (one.pixels == again.pixels).all()
    assert (one.labels == again.labels).all()
    assert (one.pixels != other.pixels).any()
    assert set(one.labels) == set(range(10))
    assert len(np.unique(one.pixels[:64].reshape(64, -1), axis=0)) == 64
    large = DATASETS["synthetic"].load(None, (224, 224, 3), 1)
    assert large.pixels.nbytes <= 64 << 20


def test_digits_are_the_real_ones() -> None:
    from sklearn.datasets import load_digits

    ours, theirs = DATASETS["digits"].load(None, SHAPE, 1), load_digits()
    assert ours.pixels.shape == (1797, 8, 8, 1)
    assert (ours.labels == theirs.target).all()
    assert (ours.pixels[..., 0] == theirs.images * 255 // 16).all()


def test_mnist_is_read_from_kerass_cache_file(tmp_path: Path) -> None:
    pixels = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)
    np.savez(tmp_path / "mnist.npz", x_train=pixels, y_train=np.array([7, 0, 9], np.uint8))
    images = DATASETS["mnist"].load(tmp_path, SHAPE, 1)
    assert (images.pixels[..., 0] == pixels).all()
    assert list(images.labels) == [7, 0, 9]


@pytest.mark.parametrize("folder", ["", "fashion-mnist"])
def test_fashion_mnist_is_read_from_idx_files(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder
    root.mkdir(exist_ok=True)
    pixels = np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28)
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes()))
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes([4, 2])))
    images = DATASETS["fashion_mnist"].load(tmp_path, SHAPE, 1)
    assert (images.pixels[..., 0] == pixels).all()
    assert list(images.labels) == [4, 2]


def write_cifar(root: Path, poison: object = None) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 32, 32), dtype=np.uint8)
    for index in range(5):
        batch = {b"data": pixels[index].reshape(2, -1), b"labels": [index, 9], b"extra": poison}
        (folder / f"data_batch_{index + 1}").write_bytes(pickle.dumps(batch, protocol=2))
    return pixels


def test_cifar10_is_read_with_channels_last(tmp_path: Path) -> None:
    pixels = write_cifar(tmp_path)
    images = DATASETS["cifar10"].load(tmp_path, (32, 32, 3), 1)
    assert images.pixels.shape == (10, 32, 32, 3)
    assert (images.pixels[3] == pixels[1, 1].transpose(1, 2, 0)).all()
    assert list(images.labels[:4]) == [0, 9, 1, 9]


class Poison:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch planted",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path, Poison())
    with pytest.raises(EnvironmentFault, match="no part of CIFAR-10"):
        DATASETS["cifar10"].load(tmp_path, (32, 32, 3), 1)
    assert not (tmp_path / "planted").exists()


def test_test_images_come_from_their_own_files(tmp_path: Path) -> None:
    pixels = np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28)
    np.savez(tmp_path / "mnist.npz", x_train=pixels, y_train=[1, 2], x_test=pixels[::-1], y_test=[3, 4])
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels[::-1].tobytes()))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes([3, 4])))
    for name in ("mnist", "fashion_mnist"):
        images = DATASETS[name].load(tmp_path, SHAPE, 1, "test")
        assert (images.pixels[..., 0] == pixels[::-1]).all()
        assert list(images.labels) == [3, 4]
    assert list(DATASETS["mnist"].load(tmp_path, SHAPE, 1, "rest").labels) == [1, 2]
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = {b"data": np.full((2, 3072), 7, np.uint8), b"labels": [5, 6]}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    assert list(DATASETS["cifar10"].load(tmp_path, (32, 32, 3), 1, "test").labels) == [5, 6]
    with pytest.raises(UsageError, match="t10k-images"):
        DATASETS["fashion_mnist"].load(folder, SHAPE, 1, "test")


def test_a_fifth_of_the_digits_is_held_out_whatever_the_seed() -> None:
    whole, rest, test = (DATASETS["digits"].load(None, SHAPE, 1, split) for split in ("train", "rest", "test"))
    assert (len(whole.labels), len(rest.labels), len(test.labels)) == (1797, 1438, 359)
    rows = [np.c_[part.pixels.reshape(-1, 64), part.labels] for part in (whole, rest, test)]
    assert sorted(map(tuple, np.concatenate(rows[1:]))) == sorted(map(tuple, rows[0]))
    assert (DATASETS["digits"].load(None, SHAPE, 2, "test").pixels == test.pixels).all()
    assert set(test.labels) == set(range(10))


def test_noise_cannot_be_recognised() -> None:
    with pytest.raises(UsageError, match="evaluate with another"):
        DATASETS["synthetic"].load(None, SHAPE, 1, "test")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_missing_file_says_where_and_how(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        DATASETS[name].find(tmp_path)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert f"keras.datasets.{name}.load_data()" in text
    assert "--data-dir" in text


@pytest.mark.parametrize("problem", [MemoryError(), EnvironmentFault("scikit-learn is not installed")])
def test_what_is_no_fault_of_a_file_is_not_blamed_on_it(problem: Exception) -> None:
    def read(*_: object) -> Images:
        raise problem

    with pytest.raises(type(problem)) as caught:
        Dataset(10, read).load(None, (8, 8, 1), 1)
    assert caught.value is problem


def test_images_without_files_need_no_home(homeless: None) -> None:
    assert DATASETS["synthetic"].find(None) == []
    with pytest.raises(UsageError, match=r"no home folder .*--data-dir"):
        DATASETS["mnist"].find(None)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "labels", "keys"])
def test_a_corrupt_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "mnist.npz"
    labels = np.array([3, 10 if damage == "labels" else 1], np.uint8)
    names = {"x": np.zeros((2, 28, 28), np.uint8)} if damage == "keys" else {"x_train": np.zeros((2, 28, 28), np.uint8)}
    np.savez(path, y_train=labels, **names)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-40], "garbage": b"\0" * 500, "empty": b""}.get(damage, whole))
    with pytest.raises(EnvironmentFault) as caught:
        DATASETS["mnist"].load(tmp_path, SHAPE, 1)
    assert str(path) in str(caught.value)


def test_a_flipped_bit_is_an_answer_or_a_named_file(tmp_path: Path) -> None:
    """Whatever the decompressor makes of it: never another exception."""
    path = tmp_path / "mnist.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    np.savez_compressed(path, x_train=pixels, y_train=np.arange(4, dtype=np.uint8))
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 37):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        try:
            DATASETS["mnist"].load(tmp_path, SHAPE, 1)
        except EnvironmentFault as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 50


def test_the_order_is_whole_seeded_epochs_and_a_prefix_of_any_longer_one() -> None:
    order = sample_order(10, seed=3, count=25)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert list(order[:10]) != list(order[10:20])
    assert (sample_order(10, seed=3, count=40)[:25] == order).all()
    assert (sample_order(10, seed=4, count=25) != order).any()


def trained(shard: Shard, *, batch: int, steps: int) -> np.ndarray:
    """[steps, shard.count * batch]: the samples that come out of the pipeline, each with its own pixels and label."""
    from bench.workloads.pipeline import image_batches

    images = np.arange(17, dtype=np.uint8).reshape(17, 1, 1, 1)
    labels = np.arange(17, dtype=np.int32) % 3
    found = []
    for pixels, some_labels, samples in image_batches(images, labels, shard, batch=batch, steps=steps, seed=1):
        assert np.allclose(pixels.numpy().reshape(-1) * 255, samples.numpy())
        assert (some_labels.numpy() == samples.numpy() % 3).all()
        found.append(samples.numpy())
    return np.asarray(found).reshape(steps, -1)


@pytest.mark.parametrize(("total", "batch"), [(1, 12), (2, 6), (3, 4), (4, 3)])
def test_workers_together_see_what_one_worker_sees(total: int, batch: int) -> None:
    parts = [trained(Shard(first=i, count=1, total=total), batch=batch, steps=5) for i in range(total)]
    assert (np.concatenate(parts, axis=1).reshape(-1) == sample_order(17, seed=1, count=60)).all()


def test_replicas_of_one_worker_come_in_order_within_a_step() -> None:
    whole = trained(Shard(first=0, count=4, total=4), batch=3, steps=2)
    assert (trained(Shard(first=2, count=2, total=4), batch=3, steps=2) == whole[:, 6:]).all()


def test_a_shard_may_be_known_only_where_it_is_read() -> None:
    import tensorflow as tf

    known = trained(Shard(first=1, count=1, total=2), batch=3, steps=4)
    assert (trained(Shard(first=tf.constant(1), count=1, total=2), batch=3, steps=4) == known).all()


@pytest.mark.parametrize(("size", "replicas", "batch"), [(17, 1, 5), (17, 2, 5), (17, 4, 5), (20, 2, 5), (1, 3, 2)])
def test_an_evaluation_counts_every_sample_once_in_whole_batches(size: int, replicas: int, batch: int) -> None:
    samples, weights = evaluation_batches(size, replicas, batch)
    assert samples.shape == weights.shape == (-(-size // (replicas * batch)), replicas, batch)
    assert list(samples[weights == 1]) == list(range(size))
    assert set(weights[weights != 1]) <= {0.0}
    assert (samples[weights == 0] == 0).all()


@pytest.mark.parametrize(("readers", "each"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_evaluation_batches_are_whole_and_hold_what_their_weights_count(readers: int, each: int) -> None:
    from bench.workloads.pipeline import InMemory

    images = Images(np.arange(17, dtype=np.uint8).reshape(17, 1, 1, 1), np.arange(17, dtype=np.int32) % 3)
    source = InMemory(images, (1, 1, 1), seed=1)
    seen, lengths = [], set()
    for reader in range(readers):
        shard = Shard(first=reader * each, count=each, total=readers * each)
        batches = list(source.evaluation_batches(shard, batch=4))
        lengths.add(len(batches))
        for pixels, labels, weights in batches:
            assert pixels.shape == (4, 1, 1, 1)
            found = np.rint(pixels.numpy().reshape(-1) * 255).astype(int)
            assert (labels.numpy() == found % 3).all()
            seen += list(found[weights.numpy() == 1])
    assert sorted(seen) == list(range(17))
    assert lengths == {each * -(-17 // (4 * readers * each))}
