"""Reading single images out of tar shards, by the place of their bytes. Imports no paddle."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from util.data.images import ImageError

MAX_OPEN = 64  # shards that a process keeps open; ImageNet has about 150 to 1,000


@dataclass(frozen=True)
class Shard:
    """A tar archive as it was when its headers were read."""

    path: Path
    size: int  # bytes
    mtime_ns: int


class ShardFiles:
    """Shards to read from. Each process opens its own, and may use those that it was forked with: no offset is shared.

    Not for several threads of one process: one might close what another reads.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = tuple(shards)
        self._open: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, the least recently used one first

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, shard: int, *, offset: int, size: int, name: str) -> bytes:
        """Returns so many bytes of a shard. name: what they are, for the ImageError that says what went wrong."""
        parts = []
        end = offset + size
        try:
            descriptor = self._descriptor(shard, name)
            while offset < end:
                part = os.pread(descriptor, end - offset, offset)
                if not part:
                    raise ImageError(name, f"the shard ends at byte {offset:,}, the image at byte {end:,}")
                parts.append(part)
                offset += len(part)
        except OSError as error:
            reason = f"cannot be read at byte {offset:,}: {error.strerror or error}"
            raise ImageError(name, reason, number=error.errno) from None
        return b"".join(parts)

    def _descriptor(self, number: int, name: str) -> int:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) >= MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        shard = self.shards[number]
        descriptor = os.open(shard.path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO put in its place does not block
        found = os.fstat(descriptor)
        if (found.st_size, found.st_mtime_ns) != (shard.size, shard.mtime_ns):
            os.close(descriptor)
            raise ImageError(name, "the shard has changed since its headers were read")
        self._open[number] = descriptor
        return descriptor


@dataclass(frozen=True)
class ShardImages:
    """Where the bytes of images are. Worker processes share the arrays with the process that they were forked from."""

    files: ShardFiles
    shard: np.ndarray  # int32 (num_images,), ascending: place in files.shards
    offset: np.ndarray  # int64 (num_images,), bytes
    size: np.ndarray  # int64 (num_images,), bytes

    def read(self, index: int, *, name: str) -> bytes:
        """Returns an image's file; name: its path, for errors."""
        return self.files.read(
            int(self.shard[index]), offset=int(self.offset[index]), size=int(self.size[index]), name=name
        )

    def holder(self, index: int) -> Path:
        """Returns the shard that an image is in."""
        return self.files.shards[int(self.shard[index])].path

    def select(self, indices: np.ndarray) -> "ShardImages":
        """Returns the places of these images alone, in this order."""
        return replace(self, shard=self.shard[indices], offset=self.offset[indices], size=self.size[indices])


@dataclass(frozen=True)
class ShardOrder:
    """Draws an order of an epoch in which shards are read a few at a time.

    The shards are shuffled and taken `window` at a time, and the images of those are shuffled together. One that stays
    within a few archives finds most of its bytes in the memory that their neighbours were read into, on disks and
    network file systems for which reading all over a data set is slow.
    """

    shard: np.ndarray  # int32 (num_images,), ascending
    window: int

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """Returns a permutation of all images, int64 (num_images,)."""
        starts = np.flatnonzero(np.diff(self.shard, prepend=-1))
        ends = np.append(starts[1:], len(self.shard))
        shards = rng.permutation(len(starts))
        groups = [shards[i : i + self.window] for i in range(0, len(shards), self.window)]
        together = (np.concatenate([np.arange(starts[s], ends[s]) for s in group]) for group in groups)
        return np.concatenate([rng.permutation(images) for images in together])
