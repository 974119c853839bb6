"""ImageNet's reassessed labels: Beyer et al., "Are we done with ImageNet?", arXiv 2006.07159.

Each validation image has every class that people see in it, or none. Accuracy is over the images that have some; a
prediction is right when it is any of them.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util.errors import DataError, MismatchError
from util.evaluation.classes import Classes, imagenet_wnids
from util.evaluation.results import ImageResults
from util.files import read_text

IMAGE_NUMBER = re.compile(r"ILSVRC2012_val_([0-9]{8})(?![0-9])")


@dataclass(frozen=True)
class RealMetrics:
    """Accuracies by the ReaL labels, in percent, over the images that have any."""

    real_top1: float
    real_top5: float
    real_images: int


def read_real_labels(path: Path, classes: Classes) -> list[frozenset[int]]:
    """Returns each validation image's classes, of the model, in the order of the image's numbers, from 1.

    path: a JSON list with a list of ImageNet's class indices for every image. Where training's folders are WordNet
    ids, an index is the class of that id, and indices that the model has no class for are left out. Where folders say
    nothing an index is the model's class. Anything else is a DataError; a thousand folders of other names, whose order
    is not ImageNet's, are a MismatchError.
    """
    text = read_text(path)
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: expected a list with a list of class indices for every validation image")
    class_of = _class_of_index(classes, path)
    labels = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, list) or not all(type(i) is int and 0 <= i < len(class_of) for i in entry):
            raise DataError(
                f"{path}: image {number}: expected a list of class indices from 0 to {len(class_of) - 1}; "
                f"got {json.dumps(entry)[:80]}"
            )
        labels.append(frozenset(class_of[i] for i in entry) - {-1})
    return labels


def _class_of_index(classes: Classes, path: Path) -> list[int]:
    """Returns the model's class for each of ImageNet's indices, -1 where it has none."""
    wnids, folders = imagenet_wnids(), classes.folders
    if folders is not None and set(folders) <= set(wnids):
        place = {folder: i for i, folder in enumerate(folders)}
        return [place.get(wnid, -1) for wnid in wnids]
    if folders is not None and len(folders) == len(wnids) and not all(re.fullmatch(r"n\d{8}", f) for f in folders):
        raise MismatchError(
            f"{path} counts ImageNet's classes in the order of their WordNet ids; the weights were trained on folders "
            f"of other names, such as {folders[0]}"
        )
    return list(range(classes.num_classes))


def real_labels_of(paths: Sequence[str], labels: Sequence[frozenset[int]], *, source: str) -> list[frozenset[int]]:
    """Returns the labels of images by the number in their names.

    A name without a number, or a wrong one, is a DataError, and so are images none of which has a label.
    """
    found = []
    for path in paths:
        match = IMAGE_NUMBER.search(Path(path).name)
        if match is None:
            raise DataError(
                f"{path}: its name does not say which validation image it is: ReaL labels go with the names "
                "ILSVRC2012_val_00000001.JPEG and so on"
            )
        number = int(match[1])
        if not 1 <= number <= len(labels):
            raise DataError(f"{path}: {source} has labels of the images 1 to {len(labels)}")
        found.append(labels[number - 1])
    if not any(found):
        raise DataError(f"{source} has no label for any of the {len(paths)} images")
    return found


def real_metrics(results: ImageResults, labels: Sequence[frozenset[int]]) -> RealMetrics:
    """Returns the accuracies by several labels an image. Images without any are not counted; one at least has some.

    results: with the model's classes.
    """
    counted = [i for i, own in enumerate(labels) if own]
    hits = np.array([[int(best) in labels[i] - {-1} for best in results.top_ids[i]] for i in counted])  # (images, k)
    return RealMetrics(
        real_top1=100 * int(hits[:, 0].sum()) / len(counted),
        real_top5=100 * int(hits.any(axis=1).sum()) / len(counted),
        real_images=len(counted),
    )
