"""The pipeline over TFRecords: which sample stands where, what becomes of it, and what is said of bad ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import UsageError
from bench.workloads import workload
from bench.workloads.records import IMAGE, RecordSet
from bench.workloads.source import Source, open_source, resolve_cache
from strategies.base import NumericsConfig, Shard
from tests.frameworks import shards

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train in 4 files, 10 to validate in 2."""
    made = shards.write(tmp_path_factory.mktemp("records"))
    return shards.write(made, count=10, files=2, part="validation")


def source(folder: Path, split: Any = "train", **how: Any) -> Source:
    return open_source("tfrecord", folder, SHAPE, 1, split, **how)


def trained(folder: Path, readers: int = 1, each: int = 1, *, batch: int, steps: int, **how: Any) -> tuple[Any, Any]:
    """(samples [steps, global batch], images) of all readers together."""
    samples, images = [], []
    for reader in range(readers):
        shard = Shard(first=reader * each, count=each, total=readers * each)
        batches = list(source(folder, **how).batches(shard, batch=batch, steps=steps).take(steps * each))
        samples.append(np.stack([part[2].numpy() for part in batches]).reshape(steps, -1))
        images.append(np.stack([part[0].numpy() for part in batches]).reshape(steps, each * batch, *SHAPE))
    return np.concatenate(samples, axis=1), np.concatenate(images, axis=1)


def test_elements_are_what_strategies_expect(folder: Path) -> None:
    images, labels, samples = next(iter(source(folder).batches(Shard(first=0, count=1, total=1), batch=8, steps=1)))
    assert (images.dtype, labels.dtype, samples.dtype) == ("float32", "int32", "int32")
    assert images.shape == (8, *SHAPE)
    assert 0 <= images.numpy().min() < images.numpy().max() <= 1
    stored = [label for path in RecordSet().find(folder) for label in labels_of(path)]
    assert [stored[sample] for sample in samples.numpy()] == list(labels.numpy())


def labels_of(path: Path) -> list[int]:
    import tensorflow as tf

    examples = map(tf.train.Example.FromString, shards.records(path))
    return [example.features.feature["image/class/label"].int64_list.value[0] for example in examples]


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_every_epoch_holds_every_sample_once_in_another_order_and_look(
    folder: Path, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    samples, images = trained(folder, batch=6, steps=12, cache=cache)
    epochs = samples.reshape(3, shards.COUNT)
    for epoch in epochs:
        assert sorted(epoch) == list(range(shards.COUNT))
    assert (epochs[0] != epochs[1]).any()
    looks = [images.reshape(-1, *SHAPE)[epoch * shards.COUNT + list(epochs[epoch]).index(7)] for epoch in range(3)]
    assert (looks[0] != looks[1]).any()
    assert (looks[1] != looks[2]).any()
    assert bool(list(tmp_path.iterdir())) == (cache == "disk")
    again = trained(folder, batch=6, steps=4, cache="memory" if cache == "memory" else "none")
    assert (again[0] == samples[:4]).all()
    assert (again[1] == images[:4]).all()


@pytest.mark.parametrize(("readers", "each"), [(2, 1), (3, 1), (2, 2), (1, 4)])
def test_where_proof_is_wanted_workers_together_see_what_one_sees(folder: Path, readers: int, each: int) -> None:
    alone = trained(folder, batch=12, steps=3)
    together = trained(folder, readers, each, batch=12 // (readers * each), steps=3, provable=True)
    assert (together[0] == alone[0]).all()
    assert (together[1] == alone[1]).all()


def test_sharding_by_file_gives_each_worker_its_own(folder: Path) -> None:
    assert source(folder).sharding(2) == "file"
    samples, _ = trained(folder, 2, batch=6, steps=2)
    first, second = set(samples[:, :6].reshape(-1)), set(samples[:, 6:].reshape(-1))
    assert (len(first), len(second)) == (12, 12)
    assert first | second == set(range(shards.COUNT))


def test_a_shard_may_be_known_only_where_it_is_read(folder: Path) -> None:
    import tensorflow as tf

    for split, provable in (("train", False), ("train", True), ("test", False)):
        found = []
        for first in (1, tf.constant(1)):
            shard, data = Shard(first=first, count=1, total=2), source(folder, split, provable=provable)
            made = data.evaluation_batches(shard, batch=3) if split == "test" else data.batches(shard, batch=3, steps=2)
            found.append([part.numpy() for batch in made.take(2) for part in batch])
        for one, other in zip(*found, strict=True):
            assert (one == other).all()


@pytest.mark.parametrize(("readers", "each"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 1)])
def test_an_evaluation_counts_every_sample_once_on_every_replica_as_often(
    folder: Path, readers: int, each: int
) -> None:
    whole = []
    steps = set()
    for reader in range(readers):
        data = source(folder, "test")
        shard = Shard(first=reader * each, count=each, total=readers * each)
        batches = list(data.evaluation_batches(shard, batch=4))
        steps.add(data.evaluation_steps(shard, batch=4))
        assert len(batches) == each * data.evaluation_steps(shard, batch=4)
        for images, labels, weights in batches:
            assert (images.shape, labels.shape) == ((4, *SHAPE), (4,))
            whole += [image.tobytes() for image, weight in zip(images.numpy(), weights.numpy(), strict=True) if weight]
            assert not images.numpy()[weights.numpy() == 0].any()
    assert len(steps) == 1
    assert (len(whole), len({*whole})) == (10, 10)
    assert data.num_samples == 10


def test_an_evaluation_sees_the_middle_of_an_image(folder: Path) -> None:
    import tensorflow as tf

    (images, _, _) = next(iter(source(folder, "test").evaluation_batches(Shard(first=0, count=1, total=1), batch=1)))
    example = tf.train.Example.FromString(shards.records(folder / "validation-00000-of-00002")[0])
    jpeg = example.features.feature[IMAGE].bytes_list.value[0]
    whole = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_FAST", fancy_upscaling=False)
    middle = tf.image.resize(whole[2:30, 2:30], SHAPE[:2]) / 255.0
    assert np.abs(images[0] - middle).max() < 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shards.half_a_jpeg, "holds no image that can be decoded"),
        (shards.no_jpeg, "holds no image that can be decoded"),
        (shards.label(3), "has label 3, not one of 0 to 2"),
        (shards.label(-1), "has label -1, not one of 0 to 2"),
        (shards.no_label, "holds 1 'image/encoded' and 0 'image/class/label', not one of each"),
        (None, "corrupted record at"),
    ],
)
def test_a_bad_record_is_named_with_its_file(tmp_path: Path, change: Callable[[Any], None] | None, words: str) -> None:
    bad = shards.write(tmp_path) / "train-00002-of-00004"
    number = 4
    if change:
        shards.rewrite(bad, number, change)
    else:
        shards.flip_a_bit(bad)
        number = 3
    for first in (0, 1):
        data = source(tmp_path)
        batches = iter(data.batches(Shard(first=first, count=1, total=2), batch=6, steps=4))
        if first:  # the file is another's
            for _ in range(4):
                next(batches)
            continue
        with pytest.raises(Exception, match=r".") as caught:
            for _ in range(4):
                next(batches)
        text = data.fault(caught.value, time.monotonic() + 60)
        assert text is not None
        assert text.startswith(f"data file cannot be used: '{bad}', record {number}: {words}")
        assert text.isprintable()
    assert data.fault(ValueError("of something else"), time.monotonic() + 60) is None


def test_a_bad_record_of_the_held_out_files_is_named(tmp_path: Path) -> None:
    bad = shards.write(shards.write(tmp_path), count=10, files=2, part="validation") / "validation-00001-of-00002"
    shards.rewrite(bad, 4, shards.half_a_jpeg)
    job = workload(
        model="alexnet",
        dataset="tfrecord",
        data_dir=tmp_path,
        seed=1,
        batch_per_device=4,
        global_batch=4,
        steps=lambda _: 1,
        numerics=NumericsConfig(),
        split="rest",
    )
    assert job.held_out is not None
    alone = Shard(first=0, count=1, total=1)
    next(iter(job.build_input(alone)))
    with pytest.raises(Exception, match=r".") as caught:
        list(job.held_out.batches(alone))
    deadline = time.monotonic() + 60
    assert job.data.fault(caught.value, deadline) is None
    text = job.held_out.fault(caught.value, deadline)
    assert text is not None
    assert text.startswith(f"data file cannot be used: '{bad}', record 4: holds no image that can be decoded")


def test_what_has_no_effect_is_refused() -> None:
    assert [resolve_cache(name, None) for name in ("synthetic", "digits", "tfrecord")] == ["memory", "memory", "none"]
    assert resolve_cache("tfrecord", "disk") == "disk"
    assert resolve_cache("mnist", "memory") == "memory"
    for asked in ("disk", "none"):
        with pytest.raises(UsageError, match=f"--cache {asked} has no effect on dataset 'synthetic'"):
            resolve_cache("synthetic", asked)  # type: ignore[arg-type]
