"""A split whose files have all been read by `python -m util.data.check`, and what there is to say about it.

Imports no paddle.
"""

import logging
from dataclasses import dataclass

import numpy as np

from util.data.image_list import ImageList
from util.data.index import FileFacts
from util.data.twins import twins_between, twins_within
from util.errors import listed
from util.files import as_field

MAX_TWINS = 5  # pairs named


@dataclass(frozen=True)
class Checked:
    """A split, all of whose files have been read."""

    split: str
    images: ImageList
    files: FileFacts
    dimensions: np.ndarray  # int64 (N, 2), width and height in pixels; zeros where it cannot be decoded

    @property
    def bad(self) -> list[tuple[str, str]]:
        """The path of each image that cannot be used, and why."""
        return [(self.images.path(i), reason) for i, reason in self.files.reasons.items()]


def summary(checked: Checked) -> str:
    """Returns a line about a split: images, classes, the smallest and the largest picture, bytes."""
    images, good = checked.images, checked.dimensions.all(axis=1)
    counts = np.bincount(images.labels)
    counts = counts[counts > 0]
    text = f"{checked.split}: {len(images):,} images of {len(counts):,} classes"
    text += f", {counts.min():,} to {counts.max():,} a class"
    if good.any():
        dimensions = checked.dimensions[good]
        pixels = dimensions.prod(axis=1)
        least, most = dimensions[pixels.argmin()], dimensions[pixels.argmax()]
        total = checked.files.sizes.clip(0).sum() / 1e6
        text += f"; {least[0]} x {least[1]} to {most[0]} x {most[1]} pixels; {total:,.1f} MB"
    return text


def warn_of_twins(one: Checked, other: Checked, log: logging.Logger) -> None:
    """Says which files of `other` have the same bytes as one of `one`, which may be the same split."""
    digests, readable = one.files.digests, np.flatnonzero(one.files.sizes > 0)
    if one is other:
        pairs = twins_within(digests, one.images.paths, readable)
    else:
        pairs = twins_between(digests, readable, other.files.digests, np.flatnonzero(other.files.sizes > 0))
    if not pairs:
        return
    names = (f"{other.images.paths[j]} = {one.images.paths[i]}" for i, j in pairs)
    named = listed(map(as_field, names), MAX_TWINS)
    contrary = sum(_class_of(one, i) != _class_of(other, j) for i, j in pairs)
    what = "an earlier one" if one is other else f"one of {one.split}"
    labels = f", {contrary:,} of them with another label" if contrary else ""
    log.warning(f"{other.split}: {len(pairs):,} images have the same bytes as {what}{labels}: {named}")


def _class_of(checked: Checked, index: int) -> str | int:
    label = int(checked.images.labels[index])
    return label if checked.images.class_names is None else checked.images.class_names[label]
