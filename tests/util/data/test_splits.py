"""Which images a split has: class folders, list files, archives of CIFAR, and the faults that are reported."""

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cifar_files import NAMES_10, pack, write_cifar
from tests.scripts.run import ROOT
from tests.trees import write_tree
from util.data.find_images import find_images
from util.data.image_list import ImageList
from util.data.list_file import read_list
from util.data.splits import load_split, scan_folder
from util.errors import DataError, MismatchError, MissingInputError, UsageError


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def _labelled(images: ImageList) -> list[tuple[str, int]]:
    return list(zip(images.paths, images.labels.tolist(), strict=True))


# --- folders


def test_find_images_is_recursive_sorted_and_leaves_out_the_rest(tmp_path: Path) -> None:
    _touch(tmp_path, "b.JPEG", "a.jpg", "sub/c.Png", "sub/deep/d.webp", "e.BMP", "f.jpeg", "notes.txt", "jpg")
    _touch(tmp_path, ".hidden.jpg", ".git/x.jpg")
    assert find_images(tmp_path) == ["a.jpg", "b.JPEG", "e.BMP", "f.jpeg", "sub/c.Png", "sub/deep/d.webp"]


def test_class_folders_are_sorted_and_give_the_labels(tmp_path: Path) -> None:
    _touch(tmp_path, "train/dog/2.jpg", "train/dog/1.jpg", "train/cat/1.jpg", "train/Zebra/1.jpg", "train/.git/1.jpg")
    images = load_split(str(tmp_path), "train")
    assert images.class_names == ["Zebra", "cat", "dog"]
    assert _labelled(images) == [
        ("train/Zebra/1.jpg", 0), ("train/cat/1.jpg", 1), ("train/dog/1.jpg", 2), ("train/dog/2.jpg", 2),
    ]  # fmt: skip
    assert images.labels.dtype == np.int64
    assert images.path(0) == str(tmp_path / "train/Zebra/1.jpg")


def test_evaluation_folders_are_matched_by_name(tmp_path: Path) -> None:
    _touch(tmp_path, "val/c/1.jpg", "val/a/1.jpg")
    images = load_split(str(tmp_path), "val", class_names=["a", "b", "c"])
    assert _labelled(images) == [("val/a/1.jpg", 0), ("val/c/1.jpg", 2)]
    assert images.class_names == ["a", "b", "c"]


def test_unknown_evaluation_class_is_a_mismatch(tmp_path: Path) -> None:
    _touch(tmp_path, "val/a/1.jpg", "val/z/1.jpg")
    with pytest.raises(MismatchError, match=r"/val: the classes z are not among the 2 classes of training"):
        scan_folder(tmp_path, "val", ["a", "b"])


def test_empty_class_folders_are_named(tmp_path: Path) -> None:
    _touch(tmp_path, "train/a/1.jpg", "train/b/1.txt")
    (tmp_path / "train/c").mkdir()
    with pytest.raises(DataError, match=r"class folders without images .*/train/b, .*/train/c; remove or fill"):
        load_split(str(tmp_path), "train")


def _no_class_folders(root: Path) -> None:
    (root / "train").mkdir()


def _loop(root: Path) -> None:
    _touch(root, "train/a/1.jpg")
    (root / "train/loop").symlink_to("..")


def _circle(root: Path) -> None:
    _touch(root, "train/a/1.jpg")
    (root / "train/b").symlink_to("b")


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "empty root": (lambda root: None, MissingInputError, r"/train: no such folder"),
    "no class folders": (_no_class_folders, DataError, r"/train has no class folders: sort its images into"),
    "empty class folder": (
        lambda root: (_touch(root, "train/a/1.jpg") / "train/b").mkdir(),
        DataError, r"class folders without images .*/train/b; remove or fill",
    ),
    "only other files": (
        lambda root: _touch(root, "train/a/1.jpg", "train/b/1.txt", "train/b/Thumbs.db"),
        DataError, r"class folders without images .*/train/b; remove or fill",
    ),
    "only hidden files": (
        lambda root: _touch(root, "train/a/1.jpg", "train/b/._1.jpg"), DataError, r"without images .*/train/b;",
    ),
    "link to a folder above": (_loop, DataError, r"/train: loop: a link to a folder above it; remove it"),
    "link in a circle": (_circle, DataError, r"/train: b: a link that leads nowhere; mend or remove it"),
    "names that differ in case": (
        lambda root: _touch(root, "train/Dog/1.jpg", "train/dog/1.jpg"),
        DataError, r"only in case .*: Dog and dog; rename",
    ),
    "names that differ in the form of an accent": (
        lambda root: _touch(root, "train/caf\u00e9/1.jpg", "train/cafe\u0301/1.jpg"), DataError, r"caf.* and caf",
    ),
    "name that is not UTF-8": (
        lambda root: _touch(root, "train/a/1.jpg", "train/\udcff/1.jpg"), DataError, r"not UTF-8: '\\udcff'; rename",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDER_FAULTS)
def test_fault_of_folders_is_named(name: str, tmp_path: Path) -> None:
    make, kind, message = FOLDER_FAULTS[name]
    make(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        load_split(str(tmp_path), "train")
    assert getattr(caught.value, "exit_code", None) == (66 if kind is MissingInputError else 65)


FINE_FOLDERS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "one class": (lambda root: _touch(root, "train/a/1.jpg"), ["train/a/1.jpg"]),
    "nested folders": (
        lambda root: _touch(root, "train/a/b/c/1.jpg", "train/a/0.jpg"), ["train/a/0.jpg", "train/a/b/c/1.jpg"],
    ),
    "hidden files and folders": (
        lambda root: _touch(root, "train/a/1.jpg", "train/a/._1.jpg", "train/.x/1.jpg", "train/a/.y/1.jpg"),
        ["train/a/1.jpg"],
    ),
    "what macOS adds to archives": (
        lambda root: _touch(root, "train/a/1.jpg", "train/__MACOSX/a/1.jpg", "train/a/__MACOSX/1.jpg"),
        ["train/a/1.jpg"],
    ),
    "link to itself below a class": (
        lambda root: (_touch(root, "train/a/1.jpg") / "train/a/loop").symlink_to(".."), ["train/a/1.jpg"],
    ),
    "file beside the class folders": (lambda root: _touch(root, "train/a/1.jpg", "train/2.jpg"), ["train/a/1.jpg"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FINE_FOLDERS)
def test_folders_that_are_odd_and_fine(name: str, tmp_path: Path) -> None:
    make, paths = FINE_FOLDERS[name]
    make(tmp_path)
    images = load_split(str(tmp_path), "train")
    assert (list(images.paths), images.class_names) == (paths, ["a"])


def test_folder_that_cannot_be_read_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if os.fspath(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"/train/b: cannot be read: Permission denied"):
        load_split(str(tmp_path), "train")


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"/nowhere: no such data folder.*--data_dir"):
        load_split(str(tmp_path / "nowhere"), "train")
    with pytest.raises(MissingInputError, match=r"/train: no such folder.*--cls_label_path_"):
        load_split(str(tmp_path), "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"/train: no class folders; expected .*/train/<class>/<image>"):
        scan_folder(tmp_path, "train")


def test_flat_folder_uses_the_list_beside_it(tmp_path: Path) -> None:
    root = write_tree(tmp_path, num_classes=2, train=1, val=2, flat_val=True)
    images = load_split(str(root), "val", num_classes=2)
    assert _labelled(images) == [(f"val/val {label} {i}.JPEG", label) for label in (0, 1) for i in (0, 1)]
    assert images.class_names is None


def test_flat_folder_without_a_list_names_both_remedies(tmp_path: Path) -> None:
    _touch(tmp_path, "val/1.jpg")
    with pytest.raises(DataError) as caught:
        load_split(str(tmp_path), "val")
    assert f"{tmp_path}/val/<class>/" in str(caught.value)
    assert f"{tmp_path}/val_list.txt" in str(caught.value)


# --- lists


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to("sub")
    return _touch(tmp_path, "a.jpg", "sub/b.jpg", "two words.jpg", "x,1.jpg")


GOOD_LISTS: dict[str, tuple[bytes, str | None, list[tuple[str, int]]]] = {
    "plain": (b"a.jpg 0\nsub/b.jpg 12", None, [("a.jpg", 0), ("sub/b.jpg", 12)]),
    "blank lines": (b"\n\na.jpg 0\n  \n\t\nsub/b.jpg 1\n\n", None, [("a.jpg", 0), ("sub/b.jpg", 1)]),
    "CRLF": (b"a.jpg 0\r\nsub/b.jpg 1\r\n", None, [("a.jpg", 0), ("sub/b.jpg", 1)]),
    "BOM": (b"\xef\xbb\xbfa.jpg 3\n", None, [("a.jpg", 3)]),
    "tabs": (b"a.jpg\t3\nsub/b.jpg\t \t4\n", None, [("a.jpg", 3), ("sub/b.jpg", 4)]),
    "several spaces": (b"  a.jpg    3  \n", None, [("a.jpg", 3)]),
    "spaces in paths": (b"two words.jpg 3\n", None, [("two words.jpg", 3)]),
    "delimiter": (b"x,1.jpg,7\ntwo words.jpg, 8\n", ",", [("x,1.jpg", 7), ("two words.jpg", 8)]),
    "the same image twice": (b"a.jpg 1\n./a.jpg 1\n", None, [("a.jpg", 1), ("./a.jpg", 1)]),
    "zeros in front": (b"a.jpg 000000000012\n", None, [("a.jpg", 12)]),
    "dot folder": (b"./a.jpg 0\n", None, [("./a.jpg", 0)]),
}


@pytest.mark.parametrize("name", GOOD_LISTS)
def test_list_is_read(name: str, data: Path) -> None:
    content, delimiter, expected = GOOD_LISTS[name]
    (data / "list.txt").write_bytes(content)
    images = load_split(str(data), "unused", list_path=str(data / "list.txt"), delimiter=delimiter)
    assert _labelled(images) == expected
    assert (images.labels.dtype, images.class_names, images.root) == (np.int64, None, data)


BAD_LINES: dict[str, tuple[str, str]] = {
    "no label": ("a.jpg", "expected `path label`, got 'a.jpg'"),
    "text": ("a.jpg one", "integer of at least 0, got 'one'"),
    "fraction": ("a.jpg 1.0", "integer of at least 0, got '1.0'"),
    "negative": ("a.jpg -1", "integer of at least 0, got '-1'"),
    "too large": ("a.jpg 5", "label 5 is outside the 5 classes (0 to 4)"),
    "huge": ("a.jpg 99999999999999999999", "label 99999999999999999999 is too large, outside the 5 classes"),
    "endless": (f"a.jpg {'9' * 5000}", f"label {'9' * 30} is too large, outside the 5 classes"),
    "folder": ("sub 1", "sub: is a folder, expected an image"),
    "link to a folder": ("link 1", "link: is a folder, expected an image"),
    "missing file": ("sub/c.jpg 1", "sub/c.jpg: no such file"),
    "missing folder": ("nowhere/c.jpg 1", "nowhere/c.jpg: no such file"),
    "absolute": ("/etc/hostname 1", "the path must stay inside data_dir, got '/etc/hostname'"),
    "escape": ("sub/../../c.jpg 1", "the path must stay inside data_dir"),
    "digits of another script": ("a.jpg \u0661", "integer of at least 0, got '\u0661'"),
    "another label": ("./a.jpg 1", "./a.jpg has label 1, but 0 in line 1"),
    "comment": ("# a comment", "got 'comment' (a list has no comments: remove the line)"),
    "comment like an image": ("# a.jpg 0", "# a.jpg: no such file (a list has no comments"),
    "label alone": ("\u00a0 1", "expected `path label`"),
    "null character in the name": ("a\0.jpg 1", "the path has a null character"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_fault_of_a_list_is_reported_by_line(name: str, data: Path) -> None:
    line, fault = BAD_LINES[name]
    path = data / "list.txt"
    path.write_text(f"a.jpg 0\n\n{line}\nsub/b.jpg 1\n")
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}:3: ") as caught:
        read_list(path, data, num_classes=5)
    assert fault in str(caught.value)
    assert str(caught.value).count("list.txt:") == 1


def test_a_label_is_too_large_also_where_the_classes_are_not_known(data: Path) -> None:
    (data / "list.txt").write_text("a.jpg 1000000000\nsub/b.jpg 999999999\n")
    with pytest.raises(DataError, match=r"list\.txt:1: label 1000000000 is too large, 999,999,999 at most$"):
        read_list(data / "list.txt", data)


def test_a_link_in_a_circle_hides_no_other_file(data: Path) -> None:
    (data / "circle").symlink_to("circle")
    (data / "list.txt").write_text("a.jpg 0\ncircle 0\n")
    assert _labelled(read_list(data / "list.txt", data)) == [("a.jpg", 0), ("circle", 0)]  # reading it will tell


def test_null_character_in_a_folder_name_is_a_fault(data: Path) -> None:
    (data / "list.txt").write_text("a\0b/c.jpg 1\n")
    with pytest.raises(DataError, match=r":1: the path has a null character"):
        read_list(data / "list.txt", data)


def test_all_faults_are_counted_and_the_first_ten_told(data: Path) -> None:
    path = data / "list.txt"
    path.write_text("".join(f"gone {i}.jpg 0\n" for i in range(13)))
    with pytest.raises(DataError, match=r":1: .*:10: .*no such file; and 3 more$"):
        read_list(path, data)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\r\n"])
def test_empty_list_is_refused(content: bytes, data: Path) -> None:
    (data / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match="lists no images"):
        read_list(data / "list.txt", data)


NO_LISTS: dict[str, tuple[bytes, str]] = {
    "gzip": (gzip.compress(b"a.jpg 0\n"), "compressed by gzip, not a list: unpack it first"),
    "zip": (b"PK\x03\x04rest", "a zip archive, not a list: unpack it first"),
    "UTF-16": ("a.jpg 0\n".encode("utf-16"), "UTF-16, not UTF-8"),
}


@pytest.mark.parametrize("name", NO_LISTS)
def test_file_that_is_no_list_is_told_by_its_first_bytes(name: str, data: Path) -> None:
    content, fault = NO_LISTS[name]
    (data / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"list.txt: {fault}"):
        read_list(data / "list.txt", data)


def test_line_that_is_not_utf8_is_reported_with_the_others(data: Path) -> None:
    (data / "list.txt").write_bytes(b"a.jpg 0\n\xff\xe9.jpg 1\ngone.jpg 1\n")
    with pytest.raises(DataError, match=r":2: not UTF-8, b'\\xff.*list.txt:3: .*gone.jpg: no such file$"):
        read_list(data / "list.txt", data)


def test_list_that_is_not_there(data: Path) -> None:
    with pytest.raises(MissingInputError, match=r"gone.txt: no such file"):
        read_list(data / "gone.txt", data)
    with pytest.raises(DataError, match=r"/sub: is not a regular file"):
        read_list(data / "sub", data)


def test_a_million_lines_are_read_within_seconds_and_half_a_gigabyte(tmp_path: Path) -> None:
    """In a process of its own, whose largest memory is then the list's; seconds of the processor, 5 at most."""
    (tmp_path / "a").mkdir()
    names = [f"a/{i:03d}.jpg" for i in range(1000)]
    _touch(tmp_path, *names)
    (tmp_path / "list.txt").write_text("".join(f"{name} {i % 7}\n" for i, name in enumerate(names)) * 1000)
    code = (
        "import re, sys, time; from pathlib import Path; from util.data.list_file import read_list\n"
        "began = time.process_time(); images = read_list(Path(sys.argv[1]) / 'list.txt', Path(sys.argv[1]))\n"
        "memory = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(len(images), time.process_time() - began, memory)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    count, seconds, kilobytes = done.stdout.split()
    assert (int(count), float(seconds) < 5, int(kilobytes) < 500_000) == (1_000_000, True, True), done.stdout


# --- CIFAR


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    write_cifar(tmp_path / "extracted", "cifar-10-batches-py")
    return pack(tmp_path / "extracted", "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz")


def test_cifar_has_its_own_splits(cifar: Path) -> None:
    train, val = load_split(str(cifar), "train"), load_split(str(cifar), "val")
    assert (len(train), len(val)) == (15, 4)
    assert train.class_names == val.class_names == NAMES_10
    assert load_split(str(cifar), "test").fingerprint() == val.fingerprint()
    assert load_split(str(cifar.parent / "extracted"), "train").fingerprint() == train.fingerprint()
    assert train.path(4) == f"{cifar}/data_batch_2[1]"
    with pytest.raises(UsageError, match=r"the splits train and test \(also called val\); got valid"):
        load_split(str(cifar), "valid")


def test_cifar_is_matched_with_the_classes_of_training_by_name(cifar: Path) -> None:
    own = load_split(str(cifar), "val")
    known = ["zebra", *reversed(NAMES_10)]
    found = load_split(str(cifar), "val", class_names=known)
    assert found.class_names == known
    assert [known[label] for label in found.labels] == [NAMES_10[label] for label in own.labels]
    with pytest.raises(MismatchError, match=r"the classes airplane are not among the 3 classes of training"):
        load_split(str(cifar), "val", class_names=NAMES_10[1:])


def test_a_folder_with_the_split_is_not_searched_for_cifar(cifar: Path) -> None:
    write_tree(cifar.parent, num_classes=2, train=1, val=1)
    assert load_split(str(cifar.parent), "train").paths[0].endswith(".JPEG")


def test_other_files_and_lists_do_not_go_for_data(cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a folder.*--cls_label_path_"):
        load_split(str(cifar), "train", list_path="list.txt")
    (tmp_path / "x.zip").write_text("nothing")
    with pytest.raises(DataError, match=r"x\.zip: neither a folder nor an archive of CIFAR-10 or CIFAR-100"):
        load_split(str(tmp_path / "x.zip"), "train")
    _touch(tmp_path / "own", "dog/1.jpg", "cat/1.jpg")
    with pytest.raises(MissingInputError, match=r"python -m util\.data\.split .*/own"):
        load_split(str(tmp_path / "own"), "train")
