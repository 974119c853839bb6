"""A split in shards: found, labelled, read image by image, and refused where it is not what was indexed."""

import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.tars import File, sample, samples, write_shards
from tests.trees import write_picture
from util.data import shard_files
from util.data.dataset import BadImage, ImageDataset
from util.data.image_list import ImageList, take
from util.data.images import ImageError
from util.data.shard_files import Shard, ShardFiles
from util.data.shard_index import scan_shards, write_index
from util.data.shards import find_shards, find_splits, load_shards
from util.data.splits import load_split
from util.errors import DataError, MismatchError, UsageError


def load(root: Path, split: str = "train", num_classes: int | None = None) -> ImageList:
    found = load_shards(root, split, class_names=None, num_classes=num_classes)
    assert found is not None
    return found


def index(root: Path, split: str = "train") -> None:
    write_index(scan_shards(find_shards(root, split), None), root / f"{split}.shards.safetensors")


def name_classes(root: Path, split: str, *names: str) -> None:
    (root / f"{split}-classes.json").write_text(json.dumps(names), encoding="utf-8")


def pictures(folder: Path, count: int) -> list[bytes]:
    for i in range(count):
        write_picture(folder / f"{i}.png", seed=i)
    return [(folder / f"{i}.png").read_bytes() for i in range(count)]


@pytest.mark.parametrize("indexed", [False, True])
def test_images_are_those_of_the_files(indexed: bool, tmp_path: Path) -> None:
    contents = pictures(tmp_path / "files", 5)
    files = [sample(f"数据/é {i}", i, content, ".png") for i, content in enumerate(contents)]
    write_shards(tmp_path / "data", [*files[0], *files[1], *files[2]], [*files[3], *files[4]])
    if indexed:
        index(tmp_path / "data")
    images = load_split(str(tmp_path / "data"), "train")
    assert images.labels.tolist() == [0, 1, 2, 3, 4]
    assert images.path(3) == str(tmp_path / "data/train-000001.tar:数据/é 3.png")
    direct = ImageList(tmp_path / "files", [f"{i}.png" for i in range(5)], images.labels, None)
    for i in range(5):
        np.testing.assert_array_equal(np.asarray(images.image(i)), np.asarray(direct.image(i)))


def test_shards_are_found_by_number_and_other_files_are_none(tmp_path: Path) -> None:
    for name in (
        "x-9.tar",
        "x-10.tar",
        "x-11.tar",
        "xx-0.tar",
        "x-1a.tar",
        "x-.tar",
        "x.tar",
        "y-0.tar",
        "x-12.tar.idx",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in find_shards(tmp_path, "x")] == ["x-9.tar", "x-10.tar", "x-11.tar"]
    assert find_splits(tmp_path) == ["x", "xx", "y"]
    assert find_shards(tmp_path, "z") == find_shards(tmp_path, ".") == find_shards(tmp_path, "no/x") == []
    assert [path.name for path in find_shards(tmp_path.parent, f"{tmp_path.name}/y")] == ["y-0.tar"]


@pytest.mark.parametrize(("names", "expected"), [
    (["t-0.tar", "t-1.tar.gz"], "t-1.tar.gz: is compressed, so that no image can be read alone; decompress it to .tar"),
    (["t-0.tgz"], "t-0.tgz: is compressed"),
    (["t-0.tar", "t-3.tar"], "t: no shard 1 between 0 and 3; bring it back, or renumber"),
    (["t-01.tar", "t-1.tar"], "t-01.tar: t-1.tar has the same number; remove one of them"),
])  # fmt: skip
def test_shards_that_are_not_all_there_are_refused(names: list[str], expected: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(gzip.compress(b""))
    with pytest.raises(DataError) as caught:
        find_shards(tmp_path, "t")
    assert str(caught.value).startswith(expected)


def test_a_compressed_copy_beside_a_shard_is_no_fault(tmp_path: Path) -> None:
    for name in ("t-0.tar", "t-0.tar.gz"):
        (tmp_path / name).touch()
    assert [path.name for path in find_shards(tmp_path, "t")] == ["t-0.tar"]


def test_folder_and_shards_of_one_name_are_ambiguous(tmp_path: Path) -> None:
    write_shards(tmp_path, samples(2))
    assert len(load_split(str(tmp_path), "train")) == 2
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match=r"train and train-000000\.tar could both be the split train; move one away"):
        load_split(str(tmp_path), "train")


def test_classes_with_names_are_matched_by_name(tmp_path: Path) -> None:
    write_shards(tmp_path, samples(4, classes=2), split="val")
    name_classes(tmp_path, "val", "cat", "dog")
    assert load(tmp_path, "val").class_names == ["cat", "dog"]
    found = load_split(str(tmp_path), "val", class_names=["ape", "dog", "cat"], num_classes=3)
    assert (found.labels.tolist(), found.class_names) == ([2, 1, 2, 1], ["ape", "dog", "cat"])
    with pytest.raises(
        MismatchError, match=r"val-classes\.json: the classes dog are not among the 2 classes of training"
    ):
        load_split(str(tmp_path), "val", class_names=["ape", "cat"], num_classes=2)


def test_classes_without_names_are_numbers_below_the_models(tmp_path: Path) -> None:
    write_shards(tmp_path, samples(4, classes=3))
    assert load(tmp_path, num_classes=3).class_names is None
    with pytest.raises(DataError, match=r"train-000000\.tar:s02\.jpg: class 2 is outside the 2 classes \(0 to 1\)"):
        load(tmp_path, num_classes=2)


@pytest.mark.parametrize("text", ['{"cat": 0}', "[]", '["cat", 1]', '["cat", "cat"]', '["a\\nb"]', "cat", "\xff"])
def test_wrong_class_names_are_refused(text: str, tmp_path: Path) -> None:
    write_shards(tmp_path, samples(2))
    (tmp_path / "train-classes.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"train-classes\.json: (expected a list|not )"):
        load(tmp_path)


def test_a_part_of_the_images_is_chosen_as_from_folders(tmp_path: Path) -> None:
    write_shards(tmp_path, samples(6), samples(6, first=6))
    whole = load(tmp_path)
    part = take(whole, 5, seed=3)
    same = take(ImageList(tmp_path, list(whole.paths), whole.labels, None), 5, seed=3)
    assert (list(part.paths), part.labels.tolist()) == (same.paths, same.labels.tolist())
    assert part.shards is not None
    for i, path in enumerate(part.paths):
        assert f"{part.shards.read(i, name=path).decode()}.jpg" == path.partition(":")[2]


def test_the_fingerprint_follows_keys_labels_and_order(tmp_path: Path) -> None:
    def fingerprint(place: str, *shards: list[File]) -> str:
        write_shards(tmp_path / place, *shards)
        return load(tmp_path / place).fingerprint()

    files = [sample("a", 0), sample("b", 1), sample("c", 1)]
    one = fingerprint("one", [*files[0], *files[1]], files[2])
    assert one == fingerprint("two", [*files[0], *sample("b", 1, b"other bytes")], files[2])
    index(tmp_path / "one")
    assert load(tmp_path / "one").fingerprint() == one
    others = [
        fingerprint("order", [*files[1], *files[0]], files[2]),
        fingerprint("label", [*files[0], *sample("b", 0)], files[2]),
        fingerprint("key", [*files[0], *sample("d", 1)], files[2]),
        fingerprint("shards", files[0], [*files[1], *files[2]]),  # which --shard_window shuffles otherwise
    ]
    assert len({one, *others}) == 5


def test_a_shard_that_changes_under_a_run_gives_an_error_not_another_image(tmp_path: Path) -> None:
    [path, _] = write_shards(tmp_path, samples(3), samples(3, first=3))
    images = load(tmp_path)
    assert images.shards is not None
    path.write_bytes(path.read_bytes().replace(b"s01", b"XXX"))
    os.utime(path, ns=(0, 1))
    with pytest.raises(ImageError) as caught:
        images.image(1)
    assert str(caught.value) == f"{path}:s01.jpg: the shard has changed since its headers were read"
    sample_or_bad = ImageDataset(images, lambda image, rng: np.asarray(image), seed=0)[(0, 1, 0)]
    assert isinstance(sample_or_bad, BadImage)
    assert sample_or_bad.path == f"{path}:s01.jpg"
    assert images.shards.read(4, name="") == b"s04"


def test_read_errors_name_shard_key_and_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [path] = write_shards(tmp_path, samples(3))
    images = load(tmp_path)
    with pytest.raises(ImageError, match=r"train-000000\.tar:s01\.jpg: is not an image"):
        images.image(1)
    os.truncate(path, 3000)  # behind the back of a descriptor that is open
    with pytest.raises(ImageError, match=r":s01\.jpg: the shard ends at byte 3,584, the image at byte 3,587$"):
        images.image(1)

    def fail(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(
        ImageError, match=r"train-000000\.tar:s00\.jpg: cannot be read at byte 1,536: Input/output error$"
    ):
        images.image(0)
    path.unlink()
    monkeypatch.undo()
    gone = ShardFiles([Shard(path, 10_240, 0)])
    with pytest.raises(ImageError, match=r":s00\.jpg: cannot be read at byte 1,536: No such file or directory$"):
        gone.read(0, offset=1536, size=3, name=images.path(0))


def test_reading_in_parts_gives_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, sample("a", 0, bytes(range(256))))
    images = load(tmp_path)
    assert images.shards is not None
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: pread(descriptor, min(size, 7), offset))
    assert images.shards.read(0, name="") == bytes(range(256))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_few_shards_are_open_and_none_when_the_list_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "MAX_OPEN", 3)
    write_shards(tmp_path, *[samples(1, first=i) for i in range(10)])
    images = load(tmp_path)
    assert images.shards is not None
    before = open_files()
    for i in np.random.default_rng(0).integers(10, size=200).tolist():
        assert images.shards.read(i, name="") == f"s{i:02d}".encode()
        assert open_files() - before <= 3
    del images
    assert open_files() == before


def test_processes_read_through_what_they_were_forked_with(tmp_path: Path) -> None:
    """Each reads the shard 200 times at once through one descriptor; with a shared position they would mix it up."""
    write_shards(tmp_path, samples(40))
    shards = load(tmp_path).shards
    assert shards is not None
    shards.read(0, name="")
    children = []
    for seed in range(4):
        child = os.fork()
        if child == 0:
            order = np.random.default_rng(seed).integers(40, size=200).tolist()
            os._exit(0 if all(shards.read(i, name="") == f"s{i:02d}".encode() for i in order) else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]


def test_paths_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write_shards(tmp_path, samples(2))
    paths = load(tmp_path).paths
    assert list(pickle.loads(pickle.dumps(paths))) == list(paths)
