"""The index of a split: the same images as a scan, and refused as soon as it does not go with the files."""

import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scripts.run import ROOT
from util.data.image_list import ImageList, take
from util.data.index import FileFacts, index_path, read_index, write_index
from util.data.paths import Paths
from util.data.splits import find_list, load_split, scan_folder
from util.errors import DataError, MismatchError, UserError

OLD = 1_600_000_000  # seconds since 1970: long before any index is written


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def _settle(root: Path) -> None:
    """Lets all folders have been changed long ago, as those of a data set that nobody is writing."""
    for where, _, _ in os.walk(root):
        os.utime(where, (OLD, OLD))


def _facts(images: ImageList, reasons: dict[int, str] | None = None) -> FileFacts:
    sizes = [os.path.getsize(images.path(i)) for i in range(len(images))]
    return FileFacts(np.array(sizes), np.zeros((len(images), 32), np.uint8), reasons or {})


def _write(root: Path, split: str, *, list_path: str | None = None, reasons: dict[int, str] | None = None) -> Path:
    images = load_split(str(root), split, list_path=list_path, use_index=False)
    path = index_path(root, split)
    list_file = find_list(root, split, list_path)
    write_index(path, images, _facts(images, reasons), split=split, scanned=time.time_ns(), list_file=list_file)
    return path


NAMES = [
    "train/b/2.jpg",
    "train/b/1.jpg",
    "train/a/deep/er/x.jpg",
    "train/a/z.png",
    "train/a/é ü.jpg",
    "train/a/\udcff.jpg",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set with an index of its split `train`."""
    _touch(tmp_path, *NAMES, "train/a/notes.txt", "train/.hidden/x.jpg")
    _settle(tmp_path / "train")
    _write(tmp_path, "train", reasons={3: "is empty"})
    return tmp_path


def _same(one: ImageList, other: ImageList) -> bool:
    texts = [(list(images.paths), images.labels.tolist(), images.class_names, images.root) for images in (one, other)]
    return texts[0] == texts[1] and one.fingerprint() == other.fingerprint()


# --- paths


def test_paths_are_a_sequence_of_the_texts_they_were_made_of() -> None:
    texts = ["a", "b c/é.jpg", "\udcff/x\n", "😀" * 60]
    paths = Paths.of(texts)
    assert list(paths) == texts
    assert (len(paths), paths[-1], list(paths[1:3]), texts[1] in paths) == (4, texts[3], texts[1:3], True)
    assert list(pickle.loads(pickle.dumps(paths))) == texts
    assert list(paths.select(np.array([2, 0, 2]))) == [texts[2], texts[0], texts[2]]
    assert list(Paths.of([])) == []
    for index in (4, -5):
        with pytest.raises(IndexError, match="of 4"):
            paths[index]


# --- the same as a scan


def test_an_index_gives_what_a_scan_gives(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    scanned = load_split(str(root), "train", use_index=False)
    with caplog.at_level(logging.INFO, "run.data"):
        found = load_split(str(root), "train")
    assert isinstance(found.paths, Paths)
    assert not isinstance(scanned.paths, Paths)
    assert _same(found, scanned)
    assert found.path(3) == scanned.path(3)
    assert (found.bad, scanned.bad) == (1, 0)
    assert re.search(r"^6 images from .*/train\.index\.safetensors, checked on \d{4}-\d\d-\d\d$", caplog.messages[0])


def test_no_folder_that_is_unchanged_is_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    scandir = os.scandir

    def recorded(path: str) -> Any:
        listed.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", recorded)
    load_split(str(root), "train")
    assert [path for path in listed if "/train/" in path] == []
    os.utime(root / "train/b", (OLD, OLD + 1))
    load_split(str(root), "train")
    assert [path for path in listed if "/train/" in path] == [str(root / "train/b")]


def test_a_part_of_the_images_has_its_own_count_of_bad_ones(root: Path) -> None:
    images = load_split(str(root), "train")
    with_bad, without = images.select(np.array([5, 3, 0])), images.select(np.array([0, 1]))
    assert (with_bad.bad, without.bad) == (1, 0)
    assert with_bad.bad_at is not None
    assert with_bad.bad_at.tolist() == [1]
    assert list(with_bad.paths) == [images.paths[i] for i in (5, 3, 0)]
    assert _same(take(images, 4, seed=1), take(load_split(str(root), "train", use_index=False), 4, seed=1))


def test_evaluation_folders_are_matched_by_name_as_in_a_scan(root: Path) -> None:
    classes = ["b", "z", "a"]
    assert _same(load_split(str(root), "train", class_names=classes), scan_folder(root, "train", classes))
    with pytest.raises(MismatchError, match=r"/train: the classes a are not among the 2 classes of training"):
        load_split(str(root), "train", class_names=["b", "c"])


def test_index_goes_with_the_folder_to_another_place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "copy"
    shutil.copytree(root, other, copy_function=shutil.copyfile)
    found = load_split(str(other), "train")
    assert isinstance(found.paths, Paths)
    assert _same(found, load_split(str(other), "train", use_index=False))


@pytest.mark.parametrize("split", ["train", "train/", "."])
def test_splits_may_be_named_in_several_ways(tmp_path: Path, split: str) -> None:
    _touch(tmp_path, "train/a/x/1.jpg", "train/b/1.jpg")
    _settle(tmp_path / "train")
    _write(tmp_path, split)
    found = load_split(str(tmp_path), split)
    assert isinstance(found.paths, Paths)
    assert _same(found, load_split(str(tmp_path), split, use_index=False))


# --- lists


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    _touch(tmp_path, "x/1.jpg", "x/2.jpg", "y/3.jpg", "0.jpg")
    (tmp_path / "list.txt").write_text("x/2.jpg 1\n0.jpg 4\ny/3.jpg 0\n")
    _settle(tmp_path)
    _write(tmp_path, "train", list_path=str(tmp_path / "list.txt"))
    return tmp_path


def test_index_of_a_list_is_used_for_this_list_alone(listed: Path) -> None:
    path = str(listed / "list.txt")
    found = load_split(str(listed), "train", list_path=path, num_classes=5)
    assert isinstance(found.paths, Paths)
    assert _same(found, load_split(str(listed), "train", list_path=path, use_index=False))
    (listed / "list.txt").write_text("x/2.jpg 1\n0.jpg 4\n")
    assert not isinstance(load_split(str(listed), "train", list_path=path).paths, Paths)
    (listed / "train/a").mkdir(parents=True)
    (listed / "train/a/1.jpg").touch()
    assert list(load_split(str(listed), "train").paths) == ["train/a/1.jpg"]


def test_index_beside_the_list_is_found(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("lists")
    for name in ("list.txt", "train.index.safetensors"):
        shutil.move(listed / name, elsewhere / name)
    found = load_split(str(listed), "train", list_path=str(elsewhere / "list.txt"))
    assert isinstance(found.paths, Paths)
    assert list(found.paths) == ["x/2.jpg", "0.jpg", "y/3.jpg"]


def test_too_few_classes_for_an_indexed_list_are_reported_by_line(listed: Path) -> None:
    with pytest.raises(DataError, match=r"list\.txt:2: label 4 is outside the 3 classes"):
        load_split(str(listed), "train", list_path=str(listed / "list.txt"), num_classes=3)


def test_listed_image_that_is_gone_is_found_by_its_folder_and_others_do_not_matter(listed: Path) -> None:
    path = str(listed / "list.txt")
    (listed / "x/new.jpg").touch()
    (listed / "x/1.jpg").unlink()  # not listed
    assert len(load_split(str(listed), "train", list_path=path)) == 3
    (listed / "y/3.jpg").unlink()
    with pytest.raises(DataError, match=r"1 removed \(y/3\.jpg\)"):
        load_split(str(listed), "train", list_path=path)


# --- what has changed


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "image added": (lambda root: (root / "train/b/new.jpg").touch(), r"1 added \(train/b/new\.jpg\)"),
    "image removed": (lambda root: (root / "train/b/1.jpg").unlink(), r"1 removed \(train/b/1\.jpg\)"),
    "image renamed": (
        lambda root: (root / "train/b/1.jpg").rename(root / "train/b/0.jpg"),
        r"1 added \(train/b/0\.jpg\) and 1 removed \(train/b/1\.jpg\)",
    ),
    "class added": (lambda root: _touch(root, "train/c/1.jpg"), r"1 added \(train/c/\)"),
    "class removed": (lambda root: shutil.rmtree(root / "train/b"), r"3 removed \(train/b/, train/b/1\.jpg, train/b/2"),
    "deep image added": (lambda root: _touch(root, "train/a/deep/er/y.jpg"), r"1 added \(train/a/deep/er/y\.jpg\)"),
    "deep folder added": (lambda root: _touch(root, "train/a/deep/new/y.jpg"), r"1 added \(train/a/deep/new/\)"),
    "many added": (
        lambda root: _touch(root, *(f"train/b/n{i}.jpg" for i in range(9))),
        r"9 added \(.*train/b/n4\.jpg, and 4 more\)",
    ),
    "image of another size": (
        lambda root: (root / "train/b/2.jpg").write_bytes(b"longer than the name was"),
        r"/train/b/2\.jpg: has 24 bytes, but 13 when it was checked on",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_named_with_what_to_do(name: str, root: Path) -> None:
    change, message = CHANGES[name]
    assert len(load_split(str(root), "train")) == 6  # before it
    change(root)
    with pytest.raises(DataError, match=message) as caught:
        load_split(str(root), "train")
    assert f"check the data again: python -m util.data.check {root} --split train" in str(caught.value)


def test_change_that_is_no_image_does_not_matter(root: Path) -> None:
    _touch(root, "train/b/readme.txt", "train/b/._1.jpg", "train/readme.txt", "train/.cache/1.jpg", "train/loose.jpg")
    assert len(load_split(str(root), "train")) == 6


def test_folder_changed_while_it_was_scanned_is_never_trusted(tmp_path: Path) -> None:
    """A file that comes within the same tick of the clock leaves the folder's time as it is."""
    _touch(tmp_path, "train/a/1.jpg")
    _write(tmp_path, "train")
    time_of_folder = (tmp_path / "train/a").stat().st_mtime_ns
    (tmp_path / "train/a/2.jpg").touch()
    os.utime(tmp_path / "train/a", ns=(time_of_folder, time_of_folder))
    with pytest.raises(DataError, match=r"1 added \(train/a/2\.jpg\)"):
        load_split(str(tmp_path), "train")


# --- damage


def test_every_damage_is_one_line_that_says_what_to_do(root: Path) -> None:
    path = index_path(root, "train")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [data[: int(n)] for n in rng.integers(0, len(data), 16)]
    for bit in rng.integers(0, 8 * len(data), 64):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        damaged.append(bytes(flipped))
    for content in [*damaged, b"", b"nothing"]:
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            load_split(str(root), "train")
        assert type(caught.value) is DataError
        assert str(caught.value).startswith(f"{path}: ")
        assert f"write it anew: python -m util.data.check {root}" in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(data)
    assert len(load_split(str(root), "train")) == 6


def test_checkpoint_in_its_place_is_no_index(root: Path) -> None:
    from util.weights.container import write_container

    write_container(index_path(root, "train"), {"x": np.zeros(3)}, {"model": {}})
    with pytest.raises(DataError, match="no index of images; delete it, or write it anew"):
        load_split(str(root), "train")


# --- size


OPEN = """
import re, sys, time
from pathlib import Path
from util.data.splits import load_split
began = time.perf_counter()
images = load_split(sys.argv[1], "train")
fingerprint = images.fingerprint()
seconds = time.perf_counter() - began
memory = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(len(images), seconds, int(memory) / 1024, images.path(len(images) - 1))
"""


def _open_in_a_child(root: Path) -> tuple[int, float, float]:
    """Returns how many images, seconds to open the index and take its fingerprint, and the child's most MB."""
    done = subprocess.run([sys.executable, "-c", OPEN, root], cwd=ROOT, capture_output=True, text=True, check=True)
    count, seconds, memory, last = done.stdout.split(maxsplit=3)
    assert os.path.exists(last.strip())
    return int(count), float(seconds), float(memory)


def _write_large(root: Path, *, classes: int, count: int) -> None:
    """Makes empty files, named as ImageNet's, and their index."""
    for i in range(classes):
        folder = root / "train" / f"n{1440764 + i:08d}"
        folder.mkdir(parents=True)
        for j in range(count // classes + (i < count % classes)):
            os.close(os.open(folder / f"{folder.name}_{j}.JPEG", os.O_CREAT))
    _settle(root / "train")
    images = scan_folder(root, "train")
    facts = FileFacts(np.zeros(count, np.int64), np.zeros((count, 32), np.uint8), {})
    write_index(index_path(root, "train"), images, facts, split="train", scanned=time.time_ns())
    assert _same(load_split(str(root), "train"), images)


def test_large_index_is_opened_in_no_time(tmp_path: Path) -> None:
    """20,000 files: as much time as Python needs anyway. The long form has ImageNet's 1,281,167."""
    _write_large(tmp_path, classes=20, count=20_000)
    count, seconds, memory = _open_in_a_child(tmp_path)
    assert count == 20_000
    assert seconds < 1
    assert memory < 200


@pytest.mark.slow
def test_index_of_imagenet_is_opened_in_two_seconds_and_600_megabytes(tmp_path: Path) -> None:
    _write_large(tmp_path, classes=1000, count=1_281_167)
    runs = [_open_in_a_child(tmp_path) for _ in range(3)]
    print(runs)
    assert {count for count, _, _ in runs} == {1_281_167}
    assert min(seconds for _, seconds, _ in runs) < 2
    assert max(memory for _, _, memory in runs) < 600
    shutil.rmtree(tmp_path / "train")


def test_index_is_read_back_whole(root: Path) -> None:
    index = read_index(index_path(root, "train"), root)
    assert index.files.reasons == {3: "is empty"}
    assert index.files.sizes.tolist() == [len(os.fsencode(name)) for name in index.images.paths]
    assert [index.folders[i].removeprefix("./") for i in index.folder_of] == [
        p.rpartition("/")[0] for p in index.images.paths
    ]
