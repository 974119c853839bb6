"""Which samples tar shards hold, in the layout of the WebDataset library: read from their headers, kept in an index.

A sample is the files next to each other that have the same key, which is a name up to the first dot of its last part
(https://github.com/webdataset/webdataset, "The WebDataset Format"). `.jpg .jpeg .png .webp .bmp` are its image, `.cls`
its class, a number as text; files with other extensions, without one, hidden ones and those called `__...__` at the top
are left out. What that library would pass over or stumble on later is an error here. Imports no paddle.
"""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from util.data.class_names import MAX_REPORTED
from util.data.images import IMAGE_SUFFIXES
from util.data.index import check_index_place
from util.data.paths import Paths
from util.data.shard_files import Shard
from util.data.shard_tar import Member, TarReader
from util.errors import DataError, MismatchError, OutputError, WeightsError, listed
from util.files import kind_of
from util.libraries import tqdm
from util.weights.container import read_container, write_container

EXTENSIONS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
CLASS = "cls"
MAX_CLASS_BYTES = 32  # of the text of a number
THREADS = 8  # that read headers; what they wait for is the disk
KIND, VERSION = "tar shards", 1


@dataclass(frozen=True)
class ShardIndex:
    """The samples of all shards of a split, in their order there."""

    shards: list[Shard]
    counts: np.ndarray  # int64 (num_shards,): samples of each
    offset: np.ndarray  # int64 (num_samples,): where an image's bytes begin
    size: np.ndarray  # int64 (num_samples,): how many these are
    labels: np.ndarray  # int64 (num_samples,)
    paths: Paths  # `train-000003.tar:n01440764/n01440764_10026.jpg`
    class_names: list[str] | None


@dataclass(frozen=True)
class _File:
    """A file of a sample; `text` is the beginning of what a class says."""

    extension: str
    member: Member
    text: bytes


@dataclass
class _Samples:
    """What one shard holds, and all that is wrong with it."""

    shard: Shard
    faults: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)  # of the keys
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


def key_and_extension(name: str) -> tuple[str, str] | None:
    """Returns the key of a file's sample and its extension in lower case; None for a file that belongs to no sample."""
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    is_meta = not folder and name.startswith("__") and name.endswith("__")
    return None if not stem or not dot or is_meta else (folder + slash + stem, extension.lower())


def _read_shard(path: Path) -> _Samples:
    """Returns the samples of a shard; broken headers end the reading."""
    found = _Samples(Shard(path, 0, 0))
    try:
        with TarReader(path) as tar:
            found.shard = Shard(path, tar.size, tar.mtime_ns)
            seen = set[str]()
            key, files = "", list[_File]()
            for member in tar.members():
                named = key_and_extension(member.name)
                if named is None:
                    continue
                if named[0] != key:
                    _add_sample(found, key, files)
                    key, files = named[0], []
                    if key in seen:
                        found.faults.append(f"{path.name}: {key}: its files are not next to each other; pack it again")
                    seen.add(key)
                text = tar.read(member.offset, min(member.size, MAX_CLASS_BYTES + 1)) if named[1] == CLASS else b""
                files.append(_File(named[1], member, text))
            _add_sample(found, key, files)
    except DataError as error:
        found.faults.append(str(error))
    if not found.names and not found.faults:
        found.faults.append(f"{path.name}: holds no samples; remove it, or pack it again")
    return found


def _add_sample(found: _Samples, key: str, files: list[_File]) -> None:
    """Adds the sample of these files, or what is wrong with it. Without image and class it is not of this kind."""
    images = [file for file in files if file.extension in EXTENSIONS]
    classes = [file for file in files if file.extension == CLASS]
    if not images and not classes:
        return
    fault = _sample_fault(images, classes)
    if fault is not None:
        found.faults.append(f"{found.shard.path.name}: {key}: {fault}")
        return
    image = images[0].member
    found.names.append(f"{found.shard.path.name}:{image.name}")
    found.hashes.append(hash(key))
    found.offset.append(image.offset)
    found.size.append(image.size)
    found.labels.append(int(classes[0].text))


def _sample_fault(images: list[_File], classes: list[_File]) -> str | None:
    for what, files in ((f"image ({' '.join(IMAGE_SUFFIXES)})", images), (".cls", classes)):
        if not files:
            return f"has no {what}; expected one image and one .cls a key"
        if len(files) > 1:
            names = ", ".join(file.member.name for file in files)
            return f"has more than one {what}: {names}; expected one image and one .cls a key"
    text = classes[0].text
    if len(text) > MAX_CLASS_BYTES or not re.fullmatch(rb"\s*[0-9]{1,9}\s*", text):
        return f"its .cls must be an integer of at least 0, got {text.decode('utf-8', 'replace')[:40]!r}; mend it"
    return None


def scan_shards(shards: Sequence[Path], class_names: list[str] | None) -> ShardIndex:
    """Returns what the shards hold, by reading their headers; a progress bar shows on a terminal.

    class_names: labels must be below their number. All faults are collected into one DataError.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        bar = tqdm(pool.map(_read_shard, shards), "shards", total=len(shards), leave=False, disable=None)
        found = list(bar)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for the shards that are left
    faults = [fault for samples in found for fault in samples.faults]
    labels, paths = _joined(s.labels for s in found), Paths.of(name for s in found for name in s.names)
    faults += _keys_twice(paths, _joined(s.hashes for s in found))
    if class_names is not None:
        faults += labels_outside(paths, labels, len(class_names))
    raise_faults(faults)
    return ShardIndex(
        shards=[samples.shard for samples in found],
        counts=np.array([len(samples.names) for samples in found], np.int64),
        offset=_joined(samples.offset for samples in found),
        size=_joined(samples.size for samples in found),
        labels=labels,
        paths=paths,
        class_names=class_names,
    )


def _joined(parts: Iterable[list[int]]) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.int64) for part in parts])


def raise_faults(faults: Sequence[str]) -> None:
    """Raises a DataError with the first faults and how many there are, if there are any."""
    if faults:
        raise DataError(listed(faults, MAX_REPORTED, separator="; "))


def _keys_twice(paths: Paths, hashes: np.ndarray) -> list[str]:
    """Keys that several shards have; texts are compared only where hashes are equal."""
    ordered = np.sort(hashes)
    twice = np.flatnonzero(np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]]))
    first: dict[str, str] = {}
    faults = []
    for index in twice.tolist():
        shard, _, name = paths[index].partition(".tar:")
        key, _ = key_and_extension(name) or ("", "")
        other = first.setdefault(key, shard)
        if other != shard:
            faults.append(f"{shard}.tar: {key}: {other}.tar has this key, too; each must stand once: pack them again")
    return faults


def labels_outside(paths: Paths, labels: np.ndarray, num_classes: int) -> list[str]:
    """Returns a line for each class that is not below `num_classes`."""
    return [
        f"{paths[i]}: class {labels[i]} is outside the {num_classes} classes (0 to {num_classes - 1}); mend the .cls"
        for i in np.flatnonzero(labels >= num_classes).tolist()
    ]


def write_index(index: ShardIndex, path: Path) -> None:
    """Writes `path`, or leaves what was there. A place where nothing can be written is an OutputError."""
    check_index_place(path)
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written; without it, training reads all headers at each start")
    state = {
        "kind": KIND,
        "version": VERSION,
        "shards": [[shard.path.name, shard.size, shard.mtime_ns] for shard in index.shards],
        "class_names": index.class_names,
    }
    tensors = {
        "counts": index.counts, "offset": index.offset, "size": index.size, "labels": index.labels,
        "paths": index.paths.joined,
    }  # fmt: skip
    write_container(path, tensors, state)


def read_index(path: Path, shards: Sequence[Path], class_names: list[str] | None) -> ShardIndex:
    """Returns the samples of an index that goes with these shards and class names.

    A damaged index is a DataError, one of other shards (by name, size and time of their last change) a MismatchError.
    """
    again = f"write it again with python -m util.data.shard --index {shlex.quote(str(path.parent))}"
    try:
        container = read_container(path)
    except WeightsError as error:
        raise DataError(f"{error}; remove it, or {again}") from None
    state, tensors = container.state, container.tensors
    if (state.get("kind"), state.get("version")) != (KIND, VERSION):
        raise DataError(f"{path}: is no index of tar shards; remove it, or {again}")
    recorded = {name: (size, mtime_ns) for name, size, mtime_ns in state["shards"]}
    faults = _differences(recorded, shards)
    if state["class_names"] != class_names:
        faults.append("the class names are others")
    if faults:
        named = listed(faults, MAX_REPORTED, separator="; ")
        raise MismatchError(
            f"{path} is not the index of what is there: {named}; bring back the files that it was written for, or "
            f"{again}"
        )
    return ShardIndex(
        shards=[Shard(shard, *recorded[shard.name]) for shard in shards],
        counts=tensors["counts"],
        offset=tensors["offset"],
        size=tensors["size"],
        labels=tensors["labels"],
        paths=Paths(tensors["paths"]),
        class_names=class_names,
    )


def _differences(recorded: dict[str, tuple[int, int]], shards: Sequence[Path]) -> list[str]:
    found = {shard.name: shard for shard in shards}
    faults = [f"{name} is missing" for name in sorted(recorded.keys() - found.keys())]
    faults += [f"{name} is not in it" for name in sorted(found.keys() - recorded.keys())]
    for name in sorted(recorded.keys() & found.keys()):
        if kind_of(found[name]) != "file":
            faults.append(f"{name} is no regular file")
            continue
        stat = os.stat(found[name])
        if stat.st_size != recorded[name][0]:
            faults.append(f"{name} has {stat.st_size:,} bytes, not {recorded[name][0]:,}")
        elif stat.st_mtime_ns != recorded[name][1]:
            faults.append(f"{name} was changed")
    return faults
