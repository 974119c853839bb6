"""Which of a model's classes a folder's name, or a line of a file, means; and choosing among fewer classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from util.data.image_list import ImageList
from util.errors import DataError, MismatchError, UsageError
from util.files import read_text

WNIDS = Path(__file__).resolve().parents[2] / "demo" / "imagenet1k_wnids.txt"
FOLDERS = "folders"  # value of --subset: the classes that the split's folders name
MAX_REPORTED = 10  # names in one error
NUMBER = re.compile(r"[0-9]{1,9}")

Lookup = Mapping[str, Sequence[int]]  # a name -> the classes that have it


@dataclass(frozen=True)
class Classes:
    """A model's classes."""

    num_classes: int
    folders: Sequence[str] | None  # of training, by class; None when training read a list, or is unknown
    names: Sequence[str]  # what people call them, by class


@lru_cache(maxsize=1)
def imagenet_wnids() -> tuple[str, ...]:
    """Returns the WordNet ids of ImageNet-1k's classes, by class: they are sorted."""
    return tuple(read_text(WNIDS).split())


def _normalised(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _names(classes: Classes) -> Lookup:
    """Names as they are, and each of several between commas (`tench, Tinca tinca`); blank or _, upper or lower case."""
    found: dict[str, set[int]] = {}
    for i, name in enumerate(classes.names):
        for part in [name, *name.split(",")]:
            found.setdefault(_normalised(part), set()).add(i)
    return {name: sorted(ids) for name, ids in found.items()}


def _look_up(names: Sequence[str], classes: Classes) -> tuple[list[Sequence[int]], bool]:
    """Returns the classes that each name can mean, in the way of naming that knows the most of them.

    The surest way comes first: the folders of training, or ImageNet's WordNet ids where training's folders are unknown
    and there are 1000 classes; then numbers, unless training's own folders are numbers; then class names.
    Also returns whether any way knows any name.
    """
    ways: list[Lookup] = []
    if classes.folders is not None:
        ways.append({name: [i] for i, name in enumerate(classes.folders)})
    elif classes.num_classes == len(imagenet_wnids()):
        ways.append({name: [i] for i, name in enumerate(imagenet_wnids())})
    found = [[way.get(name, ()) for name in names] for way in ways]
    if classes.folders is None or not all(NUMBER.fullmatch(folder) for folder in classes.folders):
        found.append([_number(name, classes.num_classes) for name in names])
    by_name = _names(classes)
    found.append([by_name.get(_normalised(name), ()) for name in names])
    best = max(found, key=lambda ids: sum(map(bool, ids)))  # the first of equals
    return best, any(best)


def _number(name: str, num_classes: int) -> Sequence[int]:
    return [int(name)] if NUMBER.fullmatch(name) and int(name) < num_classes else ()


def find_classes(names: Sequence[str], classes: Classes, *, source: str) -> np.ndarray:
    """Returns the class that each name means, int64.

    names: all in one way, as WordNet ids or the folders of training, as numbers from 0, or as class names.
    source: where the names stand, for errors. An unknown or ambiguous name is a MismatchError, two names of one class
    are a DataError.
    """
    found, _ = _look_up(names, classes)
    unknown = [name for name, ids in zip(names, found, strict=True) if not ids]
    if unknown:
        more = f" (and {len(unknown) - MAX_REPORTED} more)" if len(unknown) > MAX_REPORTED else ""
        whose = "of training" if classes.folders is not None else "of the weights"
        raise MismatchError(
            f"{source}: the classes {', '.join(unknown[:MAX_REPORTED])}{more} are not among the {classes.num_classes} "
            f"classes {whose}; name all by WordNet ids or training's folders, by numbers from 0, or by class names, "
            "or use a list file (--cls_label_path_val)"
        )
    ambiguous = [f"{name} ({', '.join(map(str, ids))})" for name, ids in zip(names, found, strict=True) if len(ids) > 1]
    if ambiguous:
        raise MismatchError(
            f"{source}: several classes have the name {'; '.join(ambiguous[:MAX_REPORTED])}; use numbers or WordNet ids"
        )
    name_of: dict[int, str] = {}
    for name, [number] in zip(names, found, strict=True):
        if number in name_of:
            raise DataError(f"{source}: {name_of[number]} and {name} are the same class, {number}; keep one")
        name_of[number] = name
    return np.array([number for [number] in found], np.int64)


def label_images(images: ImageList, classes: Classes, *, source: str) -> ImageList:
    """Returns a split read without knowing the model's classes, now labelled by them.

    Labels of a list file are classes already. Folders that none of the model's classes is named after count in sorted
    order, if training's folders are unknown and there are as many as classes. Otherwise errors as of `find_classes`.
    """
    folders = images.class_names
    if folders is None:
        return images
    _, any_known = _look_up(folders, classes)
    if classes.folders is None and len(folders) == classes.num_classes and not any_known:
        return images
    return replace(images, labels=find_classes(folders, classes, source=source)[images.labels])


def read_subset(path: Path, classes: Classes) -> np.ndarray:
    """Returns the classes of a file with a class a line, sorted int64. Blank lines are left out."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    names = [line for line in lines if line]
    if not names:
        raise DataError(f"{path}: names no class; expected a WordNet id, a class name or a number a line")
    return np.sort(find_classes(names, classes, source=str(path)))


def choose_subset(subset: str, images: ImageList, classes: Classes, *, source: str) -> np.ndarray:
    """Returns the classes that `--subset` names, sorted int64.

    images: the labelled split, whose class folders count for `folders`. source: the split, for errors.
    """
    if subset != FOLDERS:
        return read_subset(Path(subset), classes)
    if images.class_names is None:
        raise UsageError(f"--subset {FOLDERS}: {source} has no class folders; give a file with a class a line")
    return np.unique(images.labels)  # no folder is empty


def restrict_labels(images: ImageList, chosen: np.ndarray, classes: Classes) -> ImageList:
    """Returns the images labelled by the place of their class in `chosen`. Another class is a DataError."""
    place = np.full(classes.num_classes, -1, np.int64)
    place[chosen] = np.arange(len(chosen))
    labels = place[images.labels]
    outside = np.flatnonzero(labels < 0)
    if len(outside):
        first = int(outside[0])
        raise DataError(
            f"{images.path(first)} is of class {images.labels[first]}, which the subset of {len(chosen)} classes does "
            f"not have; so it is with {len(outside)} of {len(images)} images: give a list file without them, or add "
            "their classes"
        )
    return replace(images, labels=labels, class_names=None)
