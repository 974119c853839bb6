# ruff: noqa: E501  a case a line reads better
"""Which class a folder's name means."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from util.data.class_names import IMAGENET_NAMES, read_class_names
from util.data.image_list import ImageList
from util.errors import DataError, MismatchError, UsageError
from util.evaluation.classes import (
    Classes,
    choose_subset,
    find_classes,
    imagenet_wnids,
    label_images,
    read_subset,
    restrict_labels,
)

NAMES = read_class_names(IMAGENET_NAMES, 1000)
IMAGENET = Classes(1000, None, NAMES)  # published weights: they know no folders
ANIMALS = Classes(3, ["cat", "dog", "eel"], ["house cat, tabby", "Dog", "eel"])
DIGITS = Classes(12, sorted(map(str, range(12))), sorted(map(str, range(12))))  # trained on folders 0 to 11
UNKNOWN = Classes(3, None, ["0", "1", "2"])

CASES = {
    "folders of training": (ANIMALS, ["dog", "eel"], [1, 2]),
    "folders of training that are numbers are names": (DIGITS, ["2", "10", "1"], [4, 2, 1]),
    "WordNet ids": (IMAGENET, ["n01440764", "n15075141", "n01443537"], [0, 999, 1]),
    "numbers, as ImageNet-V2 has them": (IMAGENET, ["0", "1", "10", "100", "2"], [0, 1, 10, 100, 2]),
    "numbers with zeros in front": (IMAGENET, ["0007", "0010"], [7, 10]),
    "numbers for folders of other names": (ANIMALS, ["2", "0"], [2, 0]),
    "whole names": (IMAGENET, ["goldfish, Carassius auratus", "stingray"], [1, 6]),
    "one of several names, blanks as _": (IMAGENET, ["great_white_shark", "Tinca tinca", "goldfish"], [2, 0, 1]),
    "names in another case": (ANIMALS, ["DOG", "Tabby"], [1, 0]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_name_means_a_class(case: str) -> None:
    classes, names, expected = CASES[case]
    found = find_classes(names, classes, source="val")
    assert (found.dtype, found.tolist()) == (np.int64, expected)


FAULTS = {
    "one unknown among known": (ANIMALS, ["cat", "wolf"], MismatchError, "val: the classes wolf are not among the 3 classes of training"),
    "an unknown WordNet id": (IMAGENET, ["n01440764", "n99999999"], MismatchError, "the classes n99999999 are not among the 1000 classes of the weights"),
    "a number too high": (IMAGENET, ["0", "1000"], MismatchError, "the classes 1000 are not"),
    "a number where folders are numbers": (Classes(3, ["1", "2", "3"], ["1", "2", "3"]), ["0", "1"], MismatchError, "the classes 0 are not"),
    "two ways mixed": (IMAGENET, ["n01440764", "17", "n01443537"], MismatchError, "the classes 17 are not"),
    "a negative number": (UNKNOWN, ["-1", "0"], MismatchError, "the classes -1 are not"),
    "a name of two classes": (IMAGENET, ["stingray", "crane"], MismatchError, "several classes have the name crane (134, 517)"),
    "a class twice": (IMAGENET, ["7", "07"], DataError, "7 and 07 are the same class, 7"),
    "many unknown": (ANIMALS, [f"x{i}" for i in range(12)], MismatchError, "x9 (and 2 more) are not"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_name_that_means_none_or_several_is_named(case: str) -> None:
    classes, names, error, message = FAULTS[case]
    with pytest.raises(error) as caught:
        find_classes(names, classes, source="val")
    assert message in str(caught.value)


def test_the_wordnet_ids_are_a_thousand_sorted_and_go_with_the_names() -> None:
    wnids = imagenet_wnids()
    assert len(set(wnids)) == 1000
    assert sorted(wnids) == list(wnids)
    known = {"n01440764": "tench", "n02124075": "Egyptian cat", "n02129165": "lion", "n03028079": "church",
             "n07920052": "espresso", "n15075141": "toilet tissue"}  # fmt: skip
    for wnid, name in known.items():
        assert NAMES[wnids.index(wnid)].startswith(name)


def split(folders: Sequence[str] | None, labels: Sequence[int]) -> ImageList:
    paths = [f"{i}.jpg" for i in range(len(labels))]
    return ImageList(Path("data"), paths, np.array(labels), None if folders is None else list(folders))


def test_images_get_the_labels_of_the_weights() -> None:
    numbers = split(["0", "1", "10", "2"], [0, 1, 2, 2, 3])  # the order of text
    assert label_images(numbers, IMAGENET, source="val").labels.tolist() == [0, 1, 10, 10, 2]
    listed = split(None, [5, 900])
    assert label_images(listed, IMAGENET, source="val").labels.tolist() == [5, 900]


def test_folders_that_nobody_knows_count_in_order_if_there_are_as_many_as_classes() -> None:
    found = label_images(split(["a", "b", "c"], [0, 2, 1]), UNKNOWN, source="val")
    assert found.labels.tolist() == [0, 2, 1]
    for folders, classes in ((["a", "b"], UNKNOWN), (["a", "b", "1"], UNKNOWN), (["a", "b", "c"], ANIMALS)):
        with pytest.raises(MismatchError, match="the classes a, b"):
            label_images(split(folders, [0, 1]), classes, source="val")


def test_a_subset_file_has_a_class_a_line(tmp_path: Path) -> None:
    path = tmp_path / "subset.txt"
    path.write_text("\ufeffn01443537\r\n\r\n  n01440764 \r\n", encoding="utf-8")
    assert read_subset(path, IMAGENET).tolist() == [0, 1]
    path.write_text("999\n3\n")
    assert read_subset(path, IMAGENET).tolist() == [3, 999]
    path.write_text("stingray\n")
    assert read_subset(path, IMAGENET).tolist() == [6]
    path.write_text(" \n")
    with pytest.raises(DataError, match="names no class"):
        read_subset(path, IMAGENET)


def test_the_subset_of_the_folders() -> None:
    images = split(["10", "2"], [10, 2, 2])
    assert choose_subset("folders", images, IMAGENET, source="val").tolist() == [2, 10]
    with pytest.raises(UsageError, match=r"list\.txt has no class folders"):
        choose_subset("folders", split(None, [1]), IMAGENET, source="list.txt")


def test_labels_count_within_the_subset_and_others_are_refused() -> None:
    images = split(None, [900, 5, 900])
    assert restrict_labels(images, np.array([5, 7, 900]), IMAGENET).labels.tolist() == [2, 0, 2]
    with pytest.raises(DataError, match=r"data/0\.jpg is of class 900.* 2 of 3 images"):
        restrict_labels(images, np.array([5, 7]), IMAGENET)
