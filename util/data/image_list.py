"""The images of a split: where each is, its label, and how its picture is read."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from util.data.images import Decode, decode_image
from util.data.paths import Paths
from util.data.sampler import SUBSET, stream
from util.data.shard_files import ShardImages
from util.errors import UsageError


@dataclass(frozen=True)
class ImageList:
    """Images of a split: paths relative to `root`, labels, and the class names where folders or an archive give them.

    pixels: the images themselves where they come from an archive; `paths` then only names them. Worker processes share
    them with the process that they were forked from.
    bad_at: which of the images an index (`util.data.index`) marks as unreadable, sorted; None: there is no index.
    shards: where the images are in tar shards; `paths` are then like `train-000003.tar:n01440764/n01440764_10026.jpg`.
    """

    root: Path
    paths: Sequence[str]  # from an index: Paths
    labels: np.ndarray  # int64 (num_images,)
    class_names: list[str] | None
    pixels: np.ndarray | None = None  # uint8 (num_images, H, W, 3)
    bad_at: np.ndarray | None = None  # int64 (bad,)
    shards: ShardImages | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def bad(self) -> int:
        """How many of the images an index marks as unreadable."""
        return 0 if self.bad_at is None else len(self.bad_at)

    def path(self, index: int) -> str:
        """Returns the full path of an image, or what stands for it: `cifar-10-python.tar.gz/data_batch_1[17]`."""
        return os.path.join(self.root, self.paths[index])

    def holder(self, index: int) -> Path:
        """Returns what an image is in: its folder, or its shard."""
        return Path(self.path(index)).parent if self.shards is None else self.shards.holder(index)

    def is_marked(self, index: int) -> bool:
        """Returns whether an index marks the image as unreadable."""
        return self.bad_at is not None and bool(np.isin(index, self.bad_at))

    def image(self, index: int, decode: Decode = decode_image) -> Any:
        """Returns what `decode` makes of a file, by default the picture, PIL RGB, which an archive gives in any case.

        An ImageError says why a file cannot be used.
        """
        if self.pixels is not None:
            return Image.fromarray(self.pixels[index])
        path = self.path(index)
        return decode(path) if self.shards is None else decode(self.shards.read(index, name=path), name=path)

    def select(self, indices: np.ndarray) -> "ImageList":
        """Returns the list of these images alone, in this order."""
        pixels = None if self.pixels is None else self.pixels[indices]
        shards = None if self.shards is None else self.shards.select(indices)
        known = self.paths
        paths = known.select(indices) if isinstance(known, Paths) else [known[i] for i in indices]
        bad_at = None if self.bad_at is None else np.flatnonzero(np.isin(indices, self.bad_at))
        labels = self.labels[indices]
        return replace(self, paths=paths, labels=labels, pixels=pixels, bad_at=bad_at, shards=shards)

    def fingerprint(self) -> str:
        """Returns a text that changes with the number, names, order or labels of the images, not with their place.

        It also covers the pixels of an archive, but not what is in files.
        """
        sha = hashlib.sha256(self.labels.astype("<i8").tobytes())
        sha.update((self.paths if isinstance(self.paths, Paths) else Paths.of(self.paths)).joined.data)
        if self.pixels is not None:
            sha.update(np.ascontiguousarray(self.pixels).data)
        return f"{len(self)} ({sha.hexdigest()[:12]})"


def take(images: ImageList, count: int, *, seed: int) -> ImageList:
    """Returns `count` of the images, as evenly from all classes as they allow, in their order.

    A pure function of (seed, count, labels); what a smaller count takes, a larger one takes too. More images than there
    are is a UsageError.
    """
    if count > len(images):
        raise UsageError(f"num_samples {count} is more than the {len(images)} training images; lower --num_samples")
    rng = np.random.default_rng(stream(seed, SUBSET))
    classes, class_of = np.unique(images.labels, return_inverse=True)
    shuffled = rng.permutation(len(images))
    by_class = shuffled[np.argsort(class_of[shuffled], kind="stable")]
    first = np.searchsorted(class_of[by_class], np.arange(len(classes)))
    rank = np.arange(len(images)) - first[class_of[by_class]]  # an image's place among those of its class
    place_of = rng.permutation(len(classes))  # which classes get one more, where they cannot all have the same
    chosen = by_class[np.lexsort((place_of[class_of[by_class]], rank))[:count]]
    return images.select(np.sort(chosen))
