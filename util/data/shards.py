"""A split in tar shards: which archives it consists of, and the list of its images.

`<split>-000000.tar`, `<split>-000001.tar` ... beside each other in the data folder hold it (see `shard_index` for what
is in them); `<split>-classes.json`, a JSON list, names its classes, if they have names; `<split>.shards.safetensors` is
the index, without which all headers are read at each start. Imports no paddle.
"""

import itertools
import json
import logging
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from util.data.class_names import index_classes
from util.data.image_list import ImageList
from util.data.shard_files import ShardFiles, ShardImages
from util.data.shard_index import ShardIndex, labels_outside, raise_faults, read_index, scan_shards
from util.errors import DataError, UsageError
from util.files import kind_of, read_text
from util.log import NAME

COMPRESSED_SUFFIX = r"(\.(gz|bz2|xz|zst|lz4|Z))"


def index_path(root: Path, split: str) -> Path:
    """Returns where the index of a split's shards is."""
    return root / f"{split}.shards.safetensors"


def classes_path(root: Path, split: str) -> Path:
    """Returns where the names of the classes are."""
    return root / f"{split}-classes.json"


def find_shards(root: Path, split: str) -> list[Path]:
    """Returns the shards of a split by their number; none where it has none.

    A compressed one, a number that is missing between others, and one that stands twice are collected into a DataError.
    """
    place = root / split
    pattern = re.compile(re.escape(Path(split).name) + r"-([0-9]{1,9})\.(tar|tgz|tbz2|txz)" + COMPRESSED_SUFFIX + "?")
    if not Path(split).name or not place.parent.is_dir():
        return []
    named = [(int(match[1]), name) for name in os.listdir(place.parent) if (match := pattern.fullmatch(name))]
    shards = {number: name for number, name in sorted(named) if name.endswith(".tar")}
    faults = []
    for number, name in sorted(named):
        if not name.endswith(".tar") and number not in shards:
            faults.append(f"{name}: is compressed, so that no image can be read alone; decompress it to .tar")
        elif name.endswith(".tar") and shards[number] != name:
            faults.append(f"{name}: {shards[number]} has the same number; remove one of them")
    numbers = sorted({number for number, _ in named})
    for before, after in itertools.pairwise(numbers):
        if after != before + 1:
            faults.append(
                f"{place.name}: no shard {before + 1} between {before} and {after}; bring it back, or renumber"
            )
    raise_faults(faults)
    return [place.parent / shards[number] for number in numbers]


def find_splits(root: Path) -> list[str]:
    """Returns the splits of which shards are in a folder, sorted."""
    names = (re.fullmatch(r"(.+)-[0-9]{1,9}\.tar", name) for name in os.listdir(root))
    return sorted({match[1] for match in names if match})


def read_classes(root: Path, split: str) -> list[str] | None:
    """Returns the names of the classes of a split's shards, None where they have none."""
    path = classes_path(root, split)
    if kind_of(path) == "nothing":
        return None
    try:
        names = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{path}: not JSON: {error}; pack again") from None
    texts = isinstance(names, list) and all(isinstance(name, str) and name.isprintable() and name for name in names)
    if not texts or not names or len(set(names)) < len(names):
        raise DataError(f'{path}: expected a list of the names of the classes, each once, such as ["cat", "dog"]')
    return names


def load_shards(
    root: Path, split: str, *, class_names: Sequence[str] | None, num_classes: int | None
) -> ImageList | None:
    """Returns the images of a split's shards, in the order of shards and samples; None where there are no shards.

    class_names: those of training; classes that have names are then matched by name. num_classes: labels of classes
    without names must be below it. A folder of the same name would be another split: a UsageError.
    """
    if not root.is_dir():
        return None
    shards = find_shards(root, split)
    if not shards:
        return None
    if (root / split).is_dir():
        raise UsageError(
            f"the folder {root / split} and {shards[0].name} could both be the split {split}; move one away"
        )
    index = _open_index(root, split, shards)
    labels, known = index.labels, index.class_names
    if known is not None and class_names is not None:
        index_of = index_classes(classes_path(root, split), known, class_names, advice="these shards are of other data")
        labels, known = np.array([index_of[name] for name in known], np.int64)[labels], list(class_names)
    if known is None and num_classes is not None:
        raise_faults(labels_outside(index.paths, labels, num_classes))
    shard = np.repeat(np.arange(len(shards), dtype=np.int32), index.counts)
    images = ShardImages(ShardFiles(index.shards), shard, index.offset, index.size)
    return ImageList(shards[0].parent, index.paths, labels, known, shards=images)


def _open_index(root: Path, split: str, shards: Sequence[Path]) -> ShardIndex:
    log = logging.getLogger(f"{NAME}.shards")
    path, class_names = index_path(root, split), read_classes(root, split)
    if kind_of(path) == "nothing":
        command = shlex.join(["python", "-m", "util.data.shard", "--index", str(root)])
        log.info(
            f"{split}: reading the headers of {len(shards)} tar shards; this saves that time at each start: {command}"
        )
        return scan_shards(shards, class_names)
    index = read_index(path, shards, class_names)
    log.info(f"{split}: {len(index.labels):,} images in {len(shards)} tar shards, by {path}")
    return index
