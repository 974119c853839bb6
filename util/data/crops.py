"""Resizing and cropping RGB pictures, as timm and torchvision do, rounding included."""

import math

import numpy as np
from PIL import Image

CROP_ATTEMPTS = 10
SRC_PADDING = 4  # pixels on each side

Box = tuple[int, int, int, int]  # left, top, width, height


def resize(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Resizes with Pillow's antialiasing filter; the same size returns the picture itself."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), resample)


def resize_to_cover(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Resizes, keeping the proportions, to the smallest picture that covers (height, width); lengths round down."""
    if image.width * height <= image.height * width:  # the width decides
        return resize(image, max(height, int(width * image.height / image.width)), width, resample)
    return resize(image, height, max(width, int(height * image.width / image.height)), resample)


def center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Crops the centre; half pixels round to even, as in torchvision."""
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def draw_crop_box(
    rng: np.random.Generator, *, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """Returns a random box inside a picture of (height, width).

    scale: bounds of the box's part of the area, uniform; ratio: bounds of its width / height, uniform in the logarithm.
    After 10 boxes that do not fit, the largest centred box whose ratio is within bounds.
    """
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            return left, top, w, h
    w, h = width, height
    if w / h < ratio[0]:
        h = max(1, round(w / ratio[0]))
    elif w / h > ratio[1]:
        w = max(1, round(h * ratio[1]))
    return (width - w) // 2, (height - h) // 2, w, h


def random_resized_crop(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    resample: Image.Resampling,
) -> Image.Image:
    """Crops a random box, as `draw_crop_box` explains, and resizes it to `size` (height, width)."""
    left, top, w, h = draw_crop_box(rng, height=image.height, width=image.width, scale=scale, ratio=ratio)
    return resize(image.crop((left, top, left + w, top + h)), *size, resample)


def reflected(start: int, length: int, side: int) -> np.ndarray:
    """Returns the pixels [start, start + length) of a line of `side` pixels that is mirrored at both ends, as indices.

    The pixels at the ends are not repeated: -1 is 1.
    """
    period = max(1, 2 * (side - 1))
    places = np.abs(np.arange(start, start + length)) % period
    return np.minimum(places, period - places)


def simple_random_crop(
    image: Image.Image, rng: np.random.Generator, *, size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Resizes to cover `size` (height, width), pads 4 pixels by reflection and crops: DeiT III, arXiv 2204.07118.

    Every place of the crop in the padded picture is equally likely.
    """
    height, width = size
    pixels = np.asarray(resize_to_cover(image, height, width, resample))
    top = int(rng.integers(0, pixels.shape[0] + 2 * SRC_PADDING - height + 1)) - SRC_PADDING
    left = int(rng.integers(0, pixels.shape[1] + 2 * SRC_PADDING - width + 1)) - SRC_PADDING
    rows, columns = reflected(top, height, pixels.shape[0]), reflected(left, width, pixels.shape[1])
    return Image.fromarray(pixels[np.ix_(rows, columns)])
