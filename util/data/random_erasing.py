"""Random erasing (Zhong et al., arXiv 1708.04896) on a normalised image."""

import math
from typing import Literal

import numpy as np

MIN_AREA, MAX_AREA = 0.02, 1 / 3  # of the image's area, all boxes together
MIN_ASPECT = 0.3
ATTEMPTS = 10


def random_erasing(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    prob: float,
    mode: Literal["const", "rand", "pixel"],
    max_count: int,
) -> np.ndarray:
    """Erases up to `max_count` boxes of a normalised image float32 (C, H, W), with probability `prob`.

    mode: `const` fills with zeros (the mean colour), `rand` with one normal value a channel, `pixel` with one for
    every value. Returns a new array when it erases.
    """
    if rng.random() >= prob:
        return image
    image = image.copy()
    channels, height, width = image.shape
    count = int(rng.integers(1, max_count + 1))
    for _ in range(count):
        for _ in range(ATTEMPTS):
            area = rng.uniform(MIN_AREA, MAX_AREA) * height * width / count
            aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
                image[:, top : top + h, left : left + w] = _fill(rng, mode, (channels, h, w))
                break
    return image


def _fill(rng: np.random.Generator, mode: str, shape: tuple[int, int, int]) -> np.ndarray | float:
    if mode == "const":
        return 0.0
    return rng.standard_normal(shape if mode == "pixel" else (shape[0], 1, 1), dtype=np.float32)
