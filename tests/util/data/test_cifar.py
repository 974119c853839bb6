"""CIFAR as it is distributed: all four versions in every place, damage, and pickles that want to run code."""

import io
import os
import pickle
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cifar_files import (
    FOLDERS,
    NAMES_10,
    Written,
    binary_batch,
    make_batch,
    pack,
    python2_batch,
    write_cifar,
)
from util.data.cifar import CifarSplit, load_cifar
from util.data.plain_pickle import read_pickle
from util.errors import DataError, UsageError


def _assert_holds(found: CifarSplit | None, written: Written, *, train: bool) -> None:
    assert found is not None
    batches = written.train if train else [written.test]
    np.testing.assert_array_equal(found.pixels, np.concatenate([batch.pixels for batch in batches]))
    assert found.labels.tolist() == [label for batch in batches for label in batch.labels]
    assert found.labels.dtype == np.int64
    assert found.class_names == written.class_names


# --- where it may be


def make_archive(root: Path, folder: str) -> Path:
    return pack(root, folder, root / "cifar.tar.gz")


def _misnamed_archive(root: Path, folder: str) -> Path:
    return pack(root, folder, root / "pictures.bin")


def _plain_tar(root: Path, folder: str) -> Path:
    return pack(root, folder, root / "cifar.tar")


def _folder_with_archive(root: Path, folder: str) -> Path:
    (root / "DATA").mkdir()
    (root / "DATA" / "notes.txt").write_text("nothing")
    return pack(root, folder, root / "DATA" / f"{folder}.tar.gz").parent


def _extracted(root: Path, folder: str) -> Path:
    return root / folder


def _parent(root: Path, folder: str) -> Path:
    return root


def _xz(root: Path, folder: str) -> Path:
    return pack(root, folder, root / "cifar.tar.xz")


def _folder_with_xz(root: Path, folder: str) -> Path:
    (root / "DATA").mkdir()
    return pack(root, folder, root / "DATA" / f"{folder}.tar.xz").parent


PLACES: list[Callable[[Path, str], Path]] = [
    make_archive, _misnamed_archive, _plain_tar, _xz, _folder_with_archive, _folder_with_xz, _extracted, _parent,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_every_version_is_read_from_every_place(
    folder: str, place: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    written = write_cifar(tmp_path, folder)
    data_dir = place(tmp_path, folder)
    for train in (True, False):
        _assert_holds(load_cifar(data_dir, train=train), written, train=train)


def test_images_are_named_by_file_and_place(tmp_path: Path) -> None:
    for folder in ("cifar-10-batches-py", "cifar-10-batches-bin"):
        write_cifar(tmp_path / folder, folder, count=2)
        found = load_cifar(tmp_path / folder, train=True)
        assert found is not None
        assert found.image_names[:3] == ["data_batch_1[0]", "data_batch_1[1]", "data_batch_2[0]"]
        assert found.place == tmp_path / folder / folder


def test_a_batch_as_python_2_wrote_it(tmp_path: Path) -> None:
    written = write_cifar(tmp_path, "cifar-10-batches-py")
    for i, batch in enumerate(written.train, start=1):
        (tmp_path / "cifar-10-batches-py" / f"data_batch_{i}").write_bytes(python2_batch(batch))
    _assert_holds(load_cifar(tmp_path, train=True), written, train=True)


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_arrays_of_old_and_new_numpy_with_text_keys_and_in_column_order(module: str) -> None:
    batch = make_batch(1, 3, 4)
    for rows in (batch.rows(), np.asfortranarray(batch.rows())):
        data = pickle.dumps({"data": rows, "labels": [1, 2, 3]}, protocol=2)
        data = re.sub(rb"cnumpy\._?core\.multiarray\n", f"c{module}.multiarray\n".encode(), data)
        found = read_pickle(data, "x")
        np.testing.assert_array_equal(found["data"], batch.rows())
        assert found["labels"] == [1, 2, 3]


def test_extracted_files_come_before_archives_and_python_before_binary(tmp_path: Path) -> None:
    written = write_cifar(tmp_path / "binary", "cifar-10-batches-bin", count=1)
    pack(tmp_path / "binary", "cifar-10-batches-bin", tmp_path / "cifar-10-binary.tar.gz")
    assert len(written.test.labels) == 2
    other = write_cifar(tmp_path, "cifar-10-batches-py", count=2)
    _assert_holds(load_cifar(tmp_path, train=False), other, train=False)


def test_both_data_sets_in_a_folder_must_be_told_apart(tmp_path: Path) -> None:
    for folder in ("cifar-10-batches-bin", "cifar-100-binary"):
        write_cifar(tmp_path, folder)
    with pytest.raises(UsageError, match=r"both CIFAR-10 and CIFAR-100.*cifar-10-batches-bin or .*cifar-100-binary"):
        load_cifar(tmp_path, train=True)
    for folder in ("cifar-10-batches-bin", "cifar-100-binary"):
        pack(tmp_path, folder, tmp_path / f"{folder}.tar.gz")
        shutil.rmtree(tmp_path / folder)
    with pytest.raises(UsageError, match=r"10-batches-bin\.tar\.gz or .*100-binary\.tar\.gz"):
        load_cifar(tmp_path, train=True)


def test_what_is_not_cifar_is_none(tmp_path: Path) -> None:
    (tmp_path / "train" / "class").mkdir(parents=True)
    (tmp_path / "test").write_text("one name of CIFAR's is none")
    (tmp_path / "text.tar.gz").write_text("not an archive")
    (tmp_path / "empty.tar").touch()
    pack(tmp_path, "train", tmp_path / "other.tar.gz")
    assert load_cifar(tmp_path, train=True) is None
    assert load_cifar(tmp_path / "other.tar.gz", train=True) is None


@pytest.mark.parametrize("name", ["cifar.tar.gz", "cifar.tar"])
def test_an_archive_with_a_damaged_beginning_is_damaged(name: str, tmp_path: Path) -> None:
    write_cifar(tmp_path / "source", "cifar-10-batches-bin")
    (tmp_path / "data").mkdir()
    archive = pack(tmp_path / "source", "cifar-10-batches-bin", tmp_path / "data" / name)
    data = archive.read_bytes()
    for content in (b"", bytes([data[0] ^ 1]) + data[1:], b"<html>not found</html>"):
        archive.write_bytes(content)
        for place in (archive, archive.parent):
            with pytest.raises(DataError, match="damaged, or not downloaded completely") as caught:
                load_cifar(place, train=True)
            assert str(caught.value).startswith(f"{archive}: ")


def test_nothing_is_unpacked_and_links_are_not_followed(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar-100-binary")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(3074))
    shutil.copytree(tmp_path / "cifar-100-binary", tmp_path / "linked")
    (tmp_path / "linked" / "train.bin").unlink()
    (tmp_path / "linked" / "train.bin").symlink_to(secret)
    archive = pack(tmp_path, "linked", tmp_path / "x.tar.gz")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DataError, match=r"x\.tar\.gz: CIFAR-100 without train\.bin: incomplete"):
        load_cifar(archive, train=True)
    assert sorted(os.listdir(tmp_path)) == before


# --- damage


@pytest.mark.parametrize(("folder", "file"), [
    ("cifar-10-batches-py", "data_batch_3"), ("cifar-10-batches-bin", "batches.meta.txt"),
    ("cifar-100-python", "meta"), ("cifar-100-binary", "train.bin"),
])  # fmt: skip
def test_missing_files_are_named(folder: str, file: str, tmp_path: Path) -> None:
    write_cifar(tmp_path, folder)
    (tmp_path / folder / file).unlink()
    for data_dir in (tmp_path, make_archive(tmp_path, folder)):
        with pytest.raises(DataError, match=rf"CIFAR-100? without {file}: incomplete"):
            load_cifar(data_dir, train=True)


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_truncated_archives_are_never_read_as_whole(folder: str, tmp_path: Path) -> None:
    write_cifar(tmp_path, folder)
    archive = make_archive(tmp_path, folder)
    data = archive.read_bytes()
    for length in [5, 100, *np.linspace(0, 0.9 * len(data), 16).astype(int)[1:]]:
        archive.write_bytes(data[:length])
        with pytest.raises(DataError, match="damaged, or not downloaded completely") as caught:
            load_cifar(archive, train=True)
        assert str(archive) in str(caught.value)
        assert "\n" not in str(caught.value)


def _batch_file(data: dict[Any, Any]) -> bytes:
    return pickle.dumps(data, protocol=2)


ROWS = make_batch(1, 2, 4).rows()
FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "damaged, or not a pickle: EOFError"),
    "text": (b"hello there", "damaged, or not a pickle"),
    "cut": (_batch_file({b"data": ROWS, b"labels": [0, 1]})[:-9], "damaged, or not a pickle"),
    "a list": (pickle.dumps([1, 2], protocol=2), "expected a pickled dict, got list"),
    "no images": (_batch_file({b"data": ROWS[:0], b"labels": [], b"batch_label": b""}), "is empty, holds no images"),
    "no labels": (_batch_file({b"data": ROWS}), "no list of labels under 'labels'"),
    "labels of CIFAR-100": (_batch_file({b"data": ROWS, b"fine_labels": [0, 1]}), "no list of labels under 'labels'"),
    "labels of another type": (_batch_file({b"data": ROWS, b"labels": [0, 1.5]}), "no list of labels"),
    "a huge label": (_batch_file({b"data": ROWS, b"labels": [0, 2**70]}), "no list of labels"),
    "a negative label": (_batch_file({b"data": ROWS, b"labels": [0, -1]}), "no list of labels"),
    "a label too many": (_batch_file({b"data": ROWS, b"labels": [0, 1, 2]}), r"expected pixels (3, 3072)"),
    "a label outside": (_batch_file({b"data": ROWS, b"labels": [0, 4]}), "label 4 is outside the 4 classes"),
    "no pixels": (_batch_file({b"labels": [0, 1]}), "under 'data', got none"),
    "smaller pictures": (_batch_file({b"data": ROWS[:, :768], b"labels": [0, 1]}), "got (2, 768)"),
    "fractions": (_batch_file({b"data": ROWS.astype("f4"), b"labels": [0, 1]}), "not a matrix of bytes"),
    "objects": (_batch_file({b"data": ROWS.astype(object), b"labels": [0, 1]}), "not a matrix of bytes"),
    "a cube": (_batch_file({b"data": ROWS.reshape(2, 3, 1024), b"labels": [0, 1]}), "not a matrix of bytes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_batch_is_one_line_that_names_the_file(name: str, tmp_path: Path) -> None:
    content, fault = FAULTS[name]
    write_cifar(tmp_path, "cifar-10-batches-py")
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_cifar(tmp_path, train=False)
    assert str(caught.value).startswith(f"{path}: ")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 3072, 3074, 2 * 3073 - 1])
def test_binary_batch_of_another_length(length: int, tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(bytes(length))
    with pytest.raises(DataError, match=rf"test_batch\.bin: {length} bytes are not a number of records of 3073 bytes"):
        load_cifar(tmp_path, train=False)


@pytest.mark.parametrize("text", ["", "\n\n", "cat\ndog\ncat\n"])
def test_class_names_are_there_once_each(text: str, tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text(text)
    with pytest.raises(DataError, match=r"batches\.meta\.txt: expected the names of the classes, each once"):
        load_cifar(tmp_path, train=False)


@pytest.mark.parametrize("name", [b"c\xe4t", b"c\nt", "c\nt", "c\udce4t", "c\u2028t"])
def test_class_names_that_no_line_can_hold_are_refused(name: str | bytes, tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar-10-batches-py")
    meta = tmp_path / "cifar-10-batches-py" / "batches.meta"
    meta.write_bytes(pickle.dumps({b"label_names": [b"airplane", b"automobile", b"bird", name]}, protocol=2))
    with pytest.raises(DataError, match=r"batches\.meta: class name .* (is not UTF-8|has a line break)"):
        load_cifar(tmp_path, train=False)


def test_class_names_of_the_binary_version_are_utf8(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_bytes(b"a\nb\nc\nd\xe4\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt: class name .* is not UTF-8"):
        load_cifar(tmp_path, train=False)


@pytest.mark.parametrize("fix_imports", [True, False])
def test_empty_bytes_are_a_value(fix_imports: bool) -> None:
    data = pickle.dumps({b"data": b"", b"labels": [b"x"]}, protocol=2, fix_imports=fix_imports)
    assert b"bytes" in data
    assert read_pickle(data, "x") == {"data": b"", "labels": [b"x"]}


def test_binary_labels_of_cifar_100_are_the_fine_ones() -> None:
    data = binary_batch(make_batch(3, 2, 6), coarse=True)
    assert [data[0], data[1], data[3074], data[3075]] == [2, 3, 2, 4]


def test_archive_with_a_huge_member_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("train", "meta"):
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            archive.addfile(member, io.BytesIO())
        bomb = tarfile.TarInfo("cifar-100-python/test")
        bomb.size = 1 << 40
        assert archive.fileobj is not None
        archive.fileobj.write(bomb.tobuf())
    assert load_cifar(path, train=True) is None


def test_the_names_of_the_tests_are_sorted_as_cifars_are() -> None:
    """A checkpoint matches classes by name; CIFAR's own are in alphabetical order, as folders would be."""
    assert sorted(NAMES_10) == NAMES_10
