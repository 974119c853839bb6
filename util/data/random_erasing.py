"""Random erasing (Zhong et al., arXiv 1708.04896) on a normalised image, with timm's distributions."""

import math
from typing import Literal

import numpy as np

MIN_ASPECT = 0.3
ATTEMPTS = 10


def random_erasing(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    prob: float,
    mode: Literal["const", "rand", "pixel"],
    counts: tuple[int, int],
    area: tuple[float, float],
) -> np.ndarray:
    """Erases `counts[0]` to `counts[1]` boxes of a normalised image float32 (C, H, W), with probability `prob`.

    mode: `const` fills with zeros (the mean colour), `rand` with one normal value a channel, `pixel` with one for
    every value. area: smallest and largest part of the image, of all boxes together. A box that does not fit after 10
    attempts is left out. Returns a new array when it erases.
    """
    if rng.random() >= prob:
        return image
    image = image.copy()
    channels, height, width = image.shape
    count = int(rng.integers(counts[0], counts[1] + 1))
    for _ in range(count):
        for _ in range(ATTEMPTS):
            pixels = rng.uniform(*area) * height * width / count
            aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
            h, w = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if h < height and w < width:
                top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
                image[:, top : top + h, left : left + w] = _fill(rng, mode, (channels, h, w))
                break
    return image


def _fill(rng: np.random.Generator, mode: str, shape: tuple[int, int, int]) -> np.ndarray | float:
    if mode == "const":
        return 0.0
    return rng.standard_normal(shape if mode == "pixel" else (shape[0], 1, 1), dtype=np.float32)
