"""`python -m bench.data`: shards from folders and from nothing, and what is said of folders that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bench import frameworks
from bench.data import main
from bench.errors import EnvironmentFault
from bench.shards import Image, generated, write
from bench.workloads.records import INDEX, read_index, shards_in
from tests.frameworks import shards

frameworks.load()


def stored(path: Path) -> list[tuple[bytes, int, bytes]]:
    """(image, label, file name) of each record."""
    import tensorflow as tf

    found = []
    for record in shards.records(path):
        features = tf.train.Example.FromString(record).features.feature
        found.append(
            (
                features["image/encoded"].bytes_list.value[0],
                features["image/class/label"].int64_list.value[0],
                features["image/filename"].bytes_list.value[0],
            )
        )
    return found


def images(folder: Path, classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    """A JPEG, a PNG with transparency and a gray PNG of each class."""
    import tensorflow as tf

    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        pixels = np.full((20, 30, 4), 60 * (label + 1), np.uint8)
        (folder / name / f"{name}.jpg").write_bytes(tf.io.encode_jpeg(pixels[..., :3]).numpy())
        (folder / name / f"{name}.png").write_bytes(tf.io.encode_png(pixels).numpy())
        (folder / name / f"{name}-gray.png").write_bytes(tf.io.encode_png(pixels[..., :1]).numpy())
        (folder / name / ".hidden").write_bytes(b"no image")
    return folder


def test_a_folder_of_images_becomes_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tensorflow as tf

    source, output = images(tmp_path / "images"), tmp_path / "out"
    assert main(["write", f"--images={source}", f"--output={output}", "--shards=2"]) == 0
    index = read_index(output)
    assert (index.num_classes, index.label_offset, index.classes) == (2, 0, ("ant", "bee"))
    assert [file.records for file in index.files["train"]] == [3, 3]
    assert "images 6 to train in 2 files and 0 to validate in 0 files, 2 classes" in capsys.readouterr().out
    held = {name: (image, label) for path in shards_in(output, "train") for image, label, name in stored(path)}
    assert set(held) == {f"{name}{kind}".encode() for name in ("ant", "bee") for kind in (".jpg", ".png", "-gray.png")}
    for name, (image, label) in held.items():
        assert label == int(name.startswith(b"bee"))
        pixels = tf.io.decode_jpeg(image).numpy()
        assert pixels.shape == (20, 30, 3)
        assert abs(pixels.astype(int) - 60 * (label + 1)).max() <= 2
    assert held[b"ant.jpg"][0] == (source / "ant" / "ant.jpg").read_bytes()
    assert main(["check", str(output)]) == 0
    assert {path.name for path in output.iterdir()} == {INDEX, "train-00000-of-00002", "train-00001-of-00002"}


def test_images_to_validate_get_the_labels_of_those_to_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, words = tmp_path / "out", ["write", "--shards=1", f"--output={tmp_path / 'out'}"]
    assert main([*words, f"--images={images(tmp_path / 'images')}"]) == 0
    only = images(tmp_path / "only", ("bee",))
    assert main([*words, f"--images={only}", "--part=validation"]) == 0
    assert {label for _, label, _ in stored(output / "validation-00000-of-00001")} == {1}
    assert main([*words, f"--images={only}"]) == 2
    assert "already holds train-* files" in capsys.readouterr().err
    other = tmp_path / "new"
    assert main(["write", "--shards=1", f"--output={other}", f"--images={images(tmp_path / 'x')}"]) == 0
    (images(tmp_path / "unknown", ("cat",)))
    assert main(["write", "--part=validation", f"--output={other}", f"--images={tmp_path / 'unknown'}"]) == 2
    assert "class 'cat'" in capsys.readouterr().err


def test_generated_images_are_functions_of_the_seed(tmp_path: Path) -> None:
    words = ["write", "--generate=6", "--image-size=64", "--num-classes=3", "--shards=2"]
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        assert main([*words, f"--output={tmp_path / name}", f"--seed={seed}"]) == 0
    one, again, other = ((tmp_path / name / "train-00000-of-00002").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other
    sizes = [len(image) / 64**2 for image, _, _ in stored(tmp_path / "one" / "train-00000-of-00002")]
    assert 0.3 < min(sizes) <= max(sizes) < 1.2  # bytes a pixel, of photographs about 0.6


def test_generated_images_of_the_two_parts_are_others(tmp_path: Path) -> None:
    for part in ("train", "validation"):
        words = ["write", "--generate=6", "--image-size=32", f"--part={part}", f"--output={tmp_path}"]
        assert main([*words, "--shards=1"]) == 0
    train, validation = (stored(tmp_path / f"{part}-00000-of-00001") for part in ("train", "validation"))
    assert not {image for image, _, _ in train} & {image for image, _, _ in validation}
    assert [label for _, label, _ in train] != [label for _, label, _ in validation]


def test_shards_that_are_there_are_indexed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, elsewhere = shards.write(tmp_path / "set"), tmp_path / "index"
    (folder / INDEX).unlink()
    assert main(["index", str(folder)]) == 0
    assert (read_index(folder).num_classes, read_index(folder).label_offset) == (1000, 1)
    words = ["--label-offset=0", "--num-classes=3", f"--output={elsewhere}"]
    assert main(["index", str(folder), *words]) == 0
    index = read_index(elsewhere)
    assert (index.num_samples("train"), index.folder) == (shards.COUNT, str(folder))
    assert main(["check", str(elsewhere)]) == 0
    cut = folder / "train-00001-of-00004"
    cut.write_bytes(cut.read_bytes()[:-5])
    assert main(["index", str(folder)]) == 3
    assert "train-00001-of-00004': it ends within record 5" in capsys.readouterr().err


def test_every_bad_record_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards.write(tmp_path)
    shards.rewrite(folder / "train-00000-of-00004", 1, shards.half_a_jpeg)
    shards.rewrite(folder / "train-00001-of-00004", 5, shards.label(9))
    shards.flip_a_bit(folder / "train-00003-of-00004")
    assert main(["check", str(folder)]) == 3
    said = capsys.readouterr()
    found = [line.partition(": ")[0].rpartition("/")[2] for line in said.out.splitlines()]
    assert found == [f"train-0000{file}-of-00004', record {record}" for file, record in ((0, 1), (1, 5), (3, 2))]
    assert said.err == "bench.data: 3 faults: fetch these files again, or write them anew\n"


def test_fetch_says_how_and_fetches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch"]) == 0
    text = capsys.readouterr().out
    for words in (
        "keras.datasets.mnist.load_data()",
        "keras.datasets.cifar10",
        "bench.data index",
        "synthetic, digits",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["write", "--output=out"], "give either --images, a folder, or --generate"),
        (["write", "--output=out", "--generate=0"], "--generate is 0: give a whole number from 1"),
        (["write", "--output=out", "--generate=3", "--shards=4"], "3 images do not fill 4 files"),
        (["write", "--output=out", "--images=in", "--num-classes=3"], "are of generated images"),
        (["write", "--output=out", "--images=gone"], "image folder 'gone' cannot be read: No such file"),
        (["write", "--output=out", "--images=empty"], "has no sub-folders"),
        (["write", "--output=out", "--images=hollow"], "class folder 'hollow/none' is empty"),
        (["index", "gone"], "data folder 'gone' does not exist"),
        (["index", "empty"], "holds no train-* files"),
        (["index", "empty", "--num-classes=0"], "--num-classes is 0: give a whole number from 1 to 1048576"),
        (
            ["index", "empty", "--num-classes=1048577"],
            "--num-classes is 1048577: give a whole number from 1 to",
        ),
        (["index", "empty", "--label-offset=1048577"], "--label-offset is 1048577: give a whole number from 0 to"),
        (["write", "--output=out", "--generate=9", "--num-classes=1048577"], "from 1 to 1048576"),
        (["check", "empty"], "has no dataset.json"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "none").mkdir(parents=True)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench.data: ")
    assert message in line


def test_a_bad_image_is_named_and_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = images(tmp_path / "images"), tmp_path / "out"
    bad = source / "bee" / "z\x1b[2J.jpg"
    for content in (b"no image", (source / "ant" / "ant.jpg").read_bytes()[:200]):
        bad.write_bytes(content)
        assert main(["write", f"--images={source}", f"--output={output}", "--shards=3"]) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"bench.data: image '{source}/bee/z\\x1b[2J.jpg' cannot be decoded: ")
        assert not list(output.iterdir())


def test_what_tensorflow_says_is_shown_where_loading_it_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def load() -> None:
        os.write(2, b"libtensorflow.so: cannot be opened\n")
        raise EnvironmentFault("TensorFlow cannot be loaded: install it")

    monkeypatch.setattr(frameworks, "load", load)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["write", "--output=out", "--generate=8"]) == 3
    assert capfd.readouterr().err.splitlines() == [
        "libtensorflow.so: cannot be opened",
        "bench.data: TensorFlow cannot be loaded: install it",
    ]


def test_parts_that_are_written_side_by_side_are_both_indexed(tmp_path: Path) -> None:
    (image,) = generated(1, 32, shards.CLASSES, seed=1, part="train")

    def read() -> bytes:
        shards.write(tmp_path, count=4, files=2, part="validation")
        return image.read()

    write([Image(read, 0, "")], tmp_path, "train", 1, num_classes=shards.CLASSES, classes=(), seed=1)
    index = read_index(tmp_path)
    assert (index.num_samples("train"), index.num_samples("validation")) == (1, 4)


def test_folders_of_folders_are_told_from_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val set"):
        images(tmp_path / "photos" / part)
    (tmp_path / "photos" / "README.txt").write_text("beside the folders")
    assert main(["write", "--images=photos", "--output=out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench.data: image folder 'photos' holds folders of folders (train, val set), ")
    assert line.endswith("--images photos/train, then --images 'photos/val set' --part validation")
    assert main(["write", "--images", "photos/train", "--output=out"]) == 0
    assert main(["write", "--images", "photos/val set", "--part", "validation", "--output=out"]) == 0
    assert [read_index(tmp_path / "out").num_samples(part) for part in ("train", "validation")] == [6, 6]


def test_fewer_images_than_files_make_fewer_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tensorflow as tf

    source, output = images(tmp_path / "images"), tmp_path / "out"
    (source / "ant" / "large.jpg").write_bytes(tf.io.encode_jpeg(np.zeros((90, 200, 1), np.uint8)).numpy())
    (source / "notes.txt").write_text("beside the class folders")
    assert main(["write", f"--images={source}", f"--output={output}"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (f"Wrote 7 images of 2 classes (30x20 to 200x90 grey and colour) as 7 train-* files to {output}")
    assert [file.records for file in read_index(output).files["train"]] == [1] * 7
    assert main(["write", "--generate=20", "--image-size=8", f"--output={tmp_path / 'more'}"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("Wrote 20 images of 10 classes (8x8 colour) as 8 train-* files to ")
