"""Reading one sample of a data set by its key."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from util.data.image_list import ImageList
from util.data.images import Decode, ImageError, decode_image
from util.data.lost import shared_failure
from util.data.sampler import SampleKey, sample_rng, substitutes
from util.data.workers import WorkerBoard

MAX_SUBSTITUTES = 100  # unreadable ones in a row, after which a data set is taken for broken


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read: a value, so that the process that asked decides what to do."""

    path: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """An image ready for a batch; `rejected` are those that it stands in for."""

    image: np.ndarray  # float32 (C, H, W)
    label: int
    index: int
    rejected: tuple[BadImage, ...] = ()


class ImageDataset:
    """Reads, decodes and transforms samples by key.

    transform: f(image, rng) -> float32 (C, H, W); `rng` comes from (seed, epoch, index, repeat) alone.
    substitute: let another image stand in for one that cannot be read, chosen by (seed, epoch, index, repeat) alone, so
        that a resumed run makes the same choice. For training; accuracy over other images would not be the split's.
    decode: what reads a file for `transform`.
    What cannot be read for no fault of its own, since the folder or the disk is gone, is no bad image but a
    ResumableError (or a LimitError, see `lost.shared_failure`).
    """

    def __init__(
        self,
        images: ImageList,
        transform: Callable[[Any, np.random.Generator], np.ndarray],
        *,
        seed: int,
        substitute: bool = False,
        decode: Decode = decode_image,
    ) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed
        self.substitute = substitute
        self.decode = decode
        self._board: WorkerBoard | None = None
        self._worker = 0

    def __len__(self) -> int:
        return len(self.images)

    def report_to(self, board: WorkerBoard, worker: int) -> None:
        """Lets a worker process say from now on which image it is busy with."""
        self._board, self._worker = board, worker

    def __getitem__(self, key: SampleKey) -> Sample | BadImage:
        found = self._read(key)
        if isinstance(found, Sample) or not self.substitute:
            return found
        rejected = [found]
        for other in islice(substitutes(self.seed, key, len(self)), MAX_SUBSTITUTES):
            stand_in = self._read(other)
            if isinstance(stand_in, Sample):
                return replace(stand_in, rejected=tuple(rejected))
            rejected.append(stand_in)
        return found

    def _read(self, key: SampleKey) -> Sample | BadImage:
        _, index, _ = key
        if self._board is not None:
            self._board.busy(self._worker, index)
        try:
            image = self.images.image(index, self.decode)
            return Sample(self.transform(image, sample_rng(self.seed, key)), int(self.images.labels[index]), index)
        except ImageError as error:
            images = self.images
            failure = shared_failure(
                error, root=images.root, holder=images.holder(index), is_known=images.is_marked(index)
            )
            if failure is not None:
                raise failure from None
            return BadImage(error.path, error.reason)
        finally:
            if self._board is not None:
                self._board.idle(self._worker)
