"""What is at the place of an index, and is none: said in one line, never passed over."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tars import samples, write_shards
from tests.trees import write_tree
from util.data import index, shards
from util.data.shard_index import scan_shards, write_index
from util.data.splits import load_split
from util.errors import DataError, MissingInputError, OutputError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic links; delete it, or "),
        (lambda path: path.symlink_to("gone"), "a link that leads nowhere; delete it, or write it anew: python -m "),
        (Path.mkdir, "expected an index, which is a file; delete it, or write it anew: python -m util.data.check "),
        (os.mkfifo, "expected an index, which is a file; delete it, or write it anew: python -m util.data.check "),
    ],
    ids=["loop", "link", "folder", "pipe"],
)
def test_what_is_no_index_is_an_error_before_training(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    root = write_tree(tmp_path, num_classes=1, train=1, val=0)
    assert len(load_split(str(root), "train")) == 1
    path = index.index_path(root, "train")
    make(path)
    with pytest.raises(DataError) as caught:
        load_split(str(root), "train")
    assert str(caught.value).startswith(f"{path}: {message}")


def test_the_index_of_shards_is_no_folder_and_no_loop(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, samples(2))
    place = shards.index_path(tmp_path, "train")
    place.mkdir()
    with pytest.raises(OutputError, match=r"train\.shards\.safetensors: is not a file; move it away"):
        write_index(scan_shards(paths, None), place)
    with pytest.raises(MissingInputError, match=r"train\.shards\.safetensors: is not a file"):
        load_split(str(tmp_path), "train")
    place.rmdir()
    place.symlink_to(place.name)
    with pytest.raises(MissingInputError, match=r"train\.shards\.safetensors: cannot be read: Too many levels"):
        load_split(str(tmp_path), "train")
