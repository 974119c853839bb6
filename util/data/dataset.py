"""Reading one sample of a data set by its key."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from util.data.image_list import ImageList
from util.data.images import ImageError
from util.data.sampler import SampleKey, sample_rng


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read: a value, so that the process that asked decides what to do."""

    path: str
    reason: str


Sample = tuple[np.ndarray, int, int]  # image float32 (C, H, W), label, index


class ImageDataset:
    """Reads, decodes and transforms samples by key.

    transform: f(image, rng) -> float32 (C, H, W); `rng` comes from (seed, epoch, index, repeat) alone.
    """

    def __init__(
        self, images: ImageList, transform: Callable[[Image.Image, np.random.Generator], np.ndarray], *, seed: int
    ) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> Sample | BadImage:
        _, index, _ = key
        try:
            image = self.images.image(index)
        except ImageError as error:
            return BadImage(error.path, error.reason)
        return self.transform(image, sample_rng(self.seed, key)), int(self.images.labels[index]), index
