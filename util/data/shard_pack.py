"""Packing the images of a split into tar shards, in the layout of the WebDataset library. Imports no paddle."""

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import socket
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from util.data.image_list import ImageList
from util.data.images import IMAGE_SUFFIXES, ImageError, read_bytes
from util.data.shard_index import raise_faults, scan_shards, write_index
from util.data.shards import classes_path, find_shards, index_path
from util.data.workers import is_dead
from util.errors import OutputError, SaveError
from util.libraries import tqdm

BLOCK = tarfile.BLOCKSIZE
END = 10_240  # bytes to which a tar is filled up
READERS, READ_AHEAD = 8, 32  # threads that read images, and images in advance; what they wait for is the disk


@dataclass(frozen=True)
class Packing:
    """What goes into which shard."""

    images: ImageList
    keys: list[str]  # by image
    suffixes: list[str]  # by image: `.jpg`
    shards: list[np.ndarray]  # int64: the images of each shard, in their order there
    bytes: int  # of all shards

    @property
    def num_images(self) -> int:
        return len(self.keys)


def plan_packing(images: ImageList, split: str, *, shard_bytes: int, seed: int) -> Packing:
    """Decides which image goes where.

    An image's key is its path below the split without suffix, dots in its file's name turned into `_`, since a key ends
    at the first one; where several would be equal, the later ones in the order of paths get `_2`, `_3` and so on. The
    order follows from the seed and the keys alone; shards are filled up to `shard_bytes`. A file that is missing, or
    whose name shards cannot hold, is a DataError.
    """
    keys, suffixes = _name_samples(images, split)
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(f"{seed} {keys[i]}".encode()).digest())
    shards: list[list[int]] = []
    total, filled = 0, 0
    for i in order:
        size = _bytes_in_tar(images.path(i), keys[i])
        if not shards or filled + size > shard_bytes:
            total, filled = total + END, END
            shards.append([])
        shards[-1].append(i)
        total, filled = total + size, filled + size
    return Packing(images, keys, suffixes, [np.array(shard, np.int64) for shard in shards], total)


def _name_samples(images: ImageList, split: str) -> tuple[list[str], list[str]]:
    suffixes = [os.path.splitext(path)[1].lower() for path in images.paths]
    faults = [
        f"{images.path(i)!r}: expected a name in UTF-8 that ends in one of {' '.join(IMAGE_SUFFIXES)}; rename it"
        for i, suffix in enumerate(suffixes)
        if suffix not in IMAGE_SUFFIXES or not _is_utf8(images.paths[i])
    ]
    raise_faults(faults)
    keys = [""] * len(images)
    used: set[str] = set()
    for i in sorted(range(len(images)), key=images.paths.__getitem__):
        path = PurePosixPath(os.path.normpath(images.paths[i]))
        if path.parts[: len(PurePosixPath(split).parts)] == PurePosixPath(split).parts:
            path = path.relative_to(split)
        plain = key = str(path.with_name(path.stem.replace(".", "_")))
        number = 1
        while key in used:
            number += 1
            key = f"{plain}_{number}"
        used.add(key)
        keys[i] = key
    return keys, [".jpg" if suffix == ".jpeg" else suffix for suffix in suffixes]


def _is_utf8(name: str) -> bool:
    return name.encode("utf-8", "replace").decode("utf-8") == name


def _bytes_in_tar(path: str, key: str) -> int:
    """Returns what a sample takes: both files with their headers, also those of names that a plain one cannot hold."""
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from None
    name_bytes = len(key.encode()) + len(".webp")
    header = BLOCK if key.isascii() and name_bytes <= tarfile.LENGTH_NAME else 3 * BLOCK + name_bytes
    return 2 * header + -(-size // BLOCK) * BLOCK + BLOCK


def check_output(output: Path, split: str, needed: int) -> None:
    """Refuses a place that holds the split already, or has no room for it, with an OutputError."""
    places = (output / split, index_path(output, split), classes_path(output, split))
    there = [path for path in places if os.path.lexists(path)]
    there += find_shards(output, split)[:1]
    if there:
        raise OutputError(
            f"{there[0]}: already there; nothing is written over: remove the split {split} or choose another --output"
        )
    place = output
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"{output}: the shards of {split} need {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; make room or "
            "choose another --output"
        )


def write_shards(packing: Packing, output: Path, split: str) -> list[Path]:
    """Writes shards, class names and index of a split into the folder `output`, and returns the shards.

    They are written into a folder beside and moved when all are whole, the index last; whatever stops that leaves
    nothing. A full disk is a SaveError, another place where nothing can be written an OutputError.
    """
    beside = output / f".tmp-{split.replace('/', '-')}-{socket.gethostname()}-{os.getpid()}"
    placed: list[Path] = []
    try:
        (output / split).parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        files = {output / f"{split}-{n:06d}.tar": beside / f"{n}.tar" for n in range(len(packing.shards))}
        with tqdm(total=packing.num_images, desc=split, unit=" images", leave=False, disable=None) as bar:
            for path, images in zip(files.values(), packing.shards, strict=True):
                _write_shard(path, packing, images, bar)
        if packing.images.class_names is not None:
            names = json.dumps(packing.images.class_names, ensure_ascii=False, indent=0) + "\n"
            (beside / "classes").write_text(names, encoding="utf-8")
            files[classes_path(output, split)] = beside / "classes"
        for path, written in files.items():
            placed.append(path)
            written.replace(path)
        _sync((output / split).parent)
        shards = [path for path in files if path.suffix == ".tar"]
        write_index(scan_shards(shards, packing.images.class_names), index_path(output, split))
    except BaseException as error:
        for path in placed:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _as_user_error(error, output, split) from None
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return shards


def _as_user_error(error: OSError, output: Path, split: str) -> OutputError | SaveError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return SaveError(f"{output}: the split {split} was not written: {error.strerror}; make room, and run again")
    return OutputError(f"{output}: cannot be written: {error.strerror}; choose another --output")


def remove_leftovers(output: Path, *, log: logging.Logger) -> None:
    """Removes the unfinished shards that killed processes of this machine have left here, and says so.

    They may be as large as the data. Those of living processes and of other machines are only named: who knows.
    """
    for path in sorted(output.glob(".tmp-*")):
        match = re.fullmatch(r"\.tmp-.+-([0-9]{1,9})", path.name)
        if not match or not path.is_dir() or path.is_symlink():
            continue
        process = int(match[1])
        is_ours = path.name.endswith(f"-{socket.gethostname()}-{process}")
        if is_ours and (process == os.getpid() or is_dead(process)):  # our own number: of a container before this one
            shutil.rmtree(path, ignore_errors=True)
            state = "could not be removed; remove it" if path.exists() else "removed"
            log.warning(f"{path}: unfinished shards of process {process}, which was killed: {state}")
        else:
            whose = f"of process {process}, which runs" if is_ours else "of another machine"
            log.warning(f"{path}: unfinished shards {whose}; remove it if nobody packs there any more")


def _write_shard(path: Path, packing: Packing, images: np.ndarray, bar: "tqdm[Any]") -> None:
    with open(path, "xb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
            contents = _read_ahead(packing.images.path(i) for i in images.tolist())
            for i, content in zip(images.tolist(), contents, strict=True):
                _add(tar, f"{packing.keys[i]}.cls", str(packing.images.labels[i]).encode())
                _add(tar, packing.keys[i] + packing.suffixes[i], content)
                bar.update()
        file.flush()
        os.fsync(file.fileno())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file; owner and time are tarfile's defaults, 0, so that the same images give the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _read_ahead(paths: Iterable[str]) -> Iterator[bytes]:
    """Yields files' contents in order, some read in advance; an ImageError says which cannot be read."""
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for path in paths:
            waiting.append(pool.submit(read_bytes, path))
            if len(waiting) >= READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _sync(folder: Path) -> None:
    """Makes the new names last; some file systems cannot do that for a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
