"""ReaL labels, against a loop over the images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from util.errors import DataError, MismatchError
from util.evaluation.classes import Classes, imagenet_wnids
from util.evaluation.real_labels import read_real_labels, real_labels_of, real_metrics
from util.evaluation.results import ImageResults

TEN = Classes(10, None, [str(i) for i in range(10)])


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_labels_go_with_the_number_in_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "real.json", [[1], [], [2, 3]])
    labels = read_real_labels(path, TEN)
    paths = ["val/n01/ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000001_n02.JPEG", "ILSVRC2012_val_00000002.png"]
    assert real_labels_of(paths, labels, source="real.json") == [{2, 3}, {1}, set()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat.jpg", "val/cat.jpg: its name does not say which validation image"),
        ("ILSVRC2012_val_000000001.JPEG", "does not say"),
        ("ILSVRC2012_val_00000004.JPEG", "labels of the images 1 to 3"),
        ("ILSVRC2012_val_00000000.JPEG", "labels of the images 1 to 3"),
        ("ILSVRC2012_val_00000002.JPEG", "no label for any of the 1 images"),
    ],
)
def test_an_image_without_labels_is_named(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        real_labels_of([f"val/{name}"], [frozenset({1}), frozenset(), frozenset({2})], source="real.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ({"a": [1]}, "expected a list"),
        ([], "expected a list"),
        ([[0], [10]], r"image 2: expected a list of class indices from 0 to 9; got \[10\]"),
        ([[-1]], "image 1"),
        ([[True]], "image 1"),
        ([0], "image 1: expected a list"),
        ([["0"]], "image 1"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_real_labels(write(tmp_path / "real.json", content), TEN)


def test_indices_are_imagenets_where_folders_are_wordnet_ids(tmp_path: Path) -> None:
    wnids = imagenet_wnids()
    path = write(tmp_path / "real.json", [[7, 500, 999], [8]])
    few = Classes(2, [wnids[7], wnids[999]], ["cock", "toilet tissue"])
    assert read_real_labels(path, few) == [{0, 1}, set()]
    assert read_real_labels(path, Classes(1000, list(wnids), list(wnids))) == [{7, 500, 999}, {8}]
    names = [f"class {i:04d}" for i in range(1000)]
    with pytest.raises(MismatchError, match="folders of other names, such as class 0000"):
        read_real_labels(path, Classes(1000, names, names))


def test_accuracies_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    top = np.argsort(rng.normal(size=(200, 10)), axis=1)[:, :5]
    some = np.zeros(200)
    results = ImageResults(rng.integers(0, 10, 200), top, np.zeros((200, 5)), some, some)
    labels = [frozenset(rng.choice(10, rng.integers(0, 4), replace=False).tolist()) for _ in range(200)]
    right1 = right5 = counted = 0
    for row, own in zip(top.tolist(), labels, strict=True):
        if own:
            counted += 1
            right1 += row[0] in own
            right5 += bool(own & set(row))
    assert 100 < counted < 200
    found = real_metrics(results, labels)
    assert (found.real_images, found.real_top1, found.real_top5) == (
        counted,
        pytest.approx(100 * right1 / counted),
        pytest.approx(100 * right5 / counted),
    )
    assert 0 < found.real_top1 < found.real_top5 < 100
