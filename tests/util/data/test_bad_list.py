"""The list of unreadable images: written over one of its own kind alone."""

import os
from pathlib import Path

import pytest

from tests.trees import write_tree
from util.data.bad_list import check_bad_list, remove_bad_list, write_bad_list
from util.data.check import main
from util.data.index import index_path
from util.errors import OutputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data", num_classes=2, train=3, val=2)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_its_own_lists_are_written_over_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    for rows in ([("a\tb\nc\u2028\x85\\\r\udcff.jpg", "is\tempty")], [], [("a", "b"), ("c", "d")]):
        check_bad_list(path)
        write_bad_list(path, rows)
        assert path.read_bytes().count(b"\n") == len(rows)
    check_bad_list(path)
    remove_bad_list(path)
    remove_bad_list(path)
    assert not path.exists()


NO_BAD_LISTS: dict[str, bytes] = {
    "text": b"my notes\n",
    "three columns": b"a\tb\tc\n",
    "no end of the line": b"a\tb",
    "binary": b"\0\t\n",
}


@pytest.mark.parametrize("place", ["bad.tsv", "data/train.bad_images.tsv"])
@pytest.mark.parametrize("name", NO_BAD_LISTS)
def test_foreign_file_at_the_place_of_the_list_is_kept(name: str, place: str, root: Path, tmp_path: Path) -> None:
    path = tmp_path / place
    path.write_bytes(NO_BAD_LISTS[name])
    before = snapshot(tmp_path)
    options = ["--bad_list", str(path)] if place == "bad.tsv" else []
    with pytest.raises(OutputError, match=r"tsv: is there, and is no list of unreadable images .*; name another with"):
        main([str(root), "--split", "train", "-j", "0", *options])
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_list_that_is_no_regular_file_is_refused_before_anything_is_read(kind: str, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "place"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    (root / "train/n01440764/a.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match=r"place: is not a regular file; name another with --bad_list"):
        main([str(root), "--split", "train", "-j", "0", "--bad_list", str(path)])
    assert path.exists()
    assert not index_path(root, "train").exists()
