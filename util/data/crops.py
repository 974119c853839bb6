"""Resizing and cropping RGB pictures, as timm and torchvision do, rounding included."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL
from PIL import Image

MAX_RESIZED = 100_000_000  # pixels; a very long picture that is resized as a whole would take gigabytes
CROP_ATTEMPTS = 10
SRC_PADDING = 4  # pixels on each side

# How far a resampling filter reaches at scale 1, in pixels, on each side.
_REACH = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0, Image.Resampling.LANCZOS: 3.0}

# Versions of Pillow that resize a picture at most 1.5 times as high as wide along its rows first.
_ROWS_FIRST = PIL.__version__.startswith(("12.", "13.0."))

Box = tuple[int, int, int, int]  # left, top, width, height
# f(picture, box, (height, width), filter): the box of a picture, resized; pixels outside of the box have no influence.
ResizeBox = Callable[[Any, Box, tuple[int, int], Image.Resampling], Image.Image]
# f(picture, size to cover, size of the centre crop, filter), sizes (height, width).
ResizeAndCrop = Callable[[Any, tuple[int, int], tuple[int, int], Image.Resampling], Image.Image]


def resize(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Resizes with Pillow's antialiasing filter; the same size returns the picture itself."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), resample)


def resize_box(image: Image.Image, box: Box, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Returns the box of a picture, resized to `size` (height, width)."""
    left, top, w, h = box
    return resize(image.crop((left, top, left + w, top + h)), *size, resample)


def covering_size(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Returns the smallest size that covers `target` in the proportions of `source`, all (height, width)."""
    (source_height, source_width), (height, width) = source, target
    if source_width * height <= source_height * width:  # the width decides
        return max(height, int(width * source_height / source_width)), width
    return height, max(width, int(height * source_width / source_height))


def resize_to_cover(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Resizes, keeping the proportions, to the smallest picture that covers (height, width); lengths round down."""
    return resize(image, *covering_size((image.height, image.width), (height, width)), resample)


def center_start(whole: int, length: int) -> int:
    """Returns where the middle `length` pixels of `whole` begin; half pixels round to even, as in torchvision."""
    return round((whole - length) / 2)


def center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Crops the centre, as `center_start` rounds it."""
    top, left = center_start(image.height, height), center_start(image.width, width)
    return image.crop((left, top, left + width, top + height))


def resize_and_center_crop(
    image: Image.Image, cover: tuple[int, int], size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Returns `center_crop` to `size` of `resize_to_cover` to `cover`, all (height, width): the same pixels, sooner.

    Pillow resizes along the rows, rounds, then along the columns. So rows that the crop does not need can be left out
    of the first pass, and columns of the second, and no pixel changes. Since version 13 it takes the columns of very
    tall pictures first; those, and all of versions that this was not compared with, are resized as a whole. Of what
    would have more than MAX_RESIZED pixels, the crop alone is resized, with other roundings.
    """
    (height, width), (full_height, full_width) = size, covering_size((image.height, image.width), cover)
    if full_height * full_width > MAX_RESIZED:
        return _resize_center(image, (full_height, full_width), size, resample)
    reach = _REACH.get(resample)
    rows_first = _ROWS_FIRST and full_height < image.height and 2 * image.height <= 3 * image.width
    if reach is None or not rows_first:
        return center_crop(resize(image, full_height, full_width, resample), height, width)
    top, left = center_start(full_height, height), center_start(full_width, width)
    scale = image.height / full_height
    reach = reach * max(scale, 1.0) + 1.0  # one more, for Pillow's rounding
    first = max(0, math.floor((top + 0.5) * scale - reach))
    last = min(image.height, math.ceil((top + height - 0.5) * scale + reach))
    rows = resize(image.crop((0, first, image.width, last)), last - first, full_width, resample)
    columns = Image.new("RGB", (width, image.height))
    columns.paste(rows.crop((left, 0, left + width, last - first)), (0, first))
    return columns.resize((width, full_height), resample).crop((0, top, width, top + height))


def _resize_center(
    image: Image.Image, full: tuple[int, int], size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Returns the centre of the picture resized to `full`, without resizing more; sizes (height, width)."""
    edges = []
    for side, whole, length in ((image.width, full[1], size[1]), (image.height, full[0], size[0])):
        start = center_start(whole, length)
        edges.append((start * side / whole, min(side, (start + length) * side / whole)))
    (left, right), (top, bottom) = edges
    return image.resize((size[1], size[0]), resample, box=(left, top, right, bottom))


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
    resize_box: ResizeBox = resize_box,
) -> Image.Image:
    """Crops a random box, as `draw_crop_box` explains, and resizes it to `size` (height, width).

    image: what `resize_box` takes; it has a width and a height.
    """
    box = draw_crop_box(rng, height=image.height, width=image.width, scale=scale, ratio=ratio)
    return resize_box(image, box, size, resample)


def reflected(start: int, length: int, side: int) -> np.ndarray:
    """Returns the pixels [start, start + length) of a line of `side` pixels that is mirrored at both ends, as indices.

    The pixels at the ends are not repeated: -1 is 1.
    """
    period = max(1, 2 * (side - 1))
    places = np.abs(np.arange(start, start + length)) % period
    return np.minimum(places, period - places)


def simple_random_crop(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    resample: Image.Resampling,
    resize_box: ResizeBox = resize_box,
) -> Image.Image:
    """Resizes to cover `size` (height, width), pads 4 pixels by reflection and crops: DeiT III, arXiv 2204.07118.

    Every place of the crop in the padded picture is equally likely. image: as in `random_resized_crop`. Of a picture
    that would have more than MAX_RESIZED pixels a part is taken, anywhere, a hundred times as long as wide.
    """
    height, width = size
    left, top, w, h = 0, 0, image.width, image.height
    if math.prod(covering_size((h, w), size)) > MAX_RESIZED:
        short = min(w, h)
        w, h = min(w, 100 * short), min(h, 100 * short)
        left, top = int(rng.integers(0, image.width - w + 1)), int(rng.integers(0, image.height - h + 1))
    pixels = np.asarray(resize_box(image, (left, top, w, h), covering_size((h, w), size), resample))
    top = int(rng.integers(0, pixels.shape[0] + 2 * SRC_PADDING - height + 1)) - SRC_PADDING
    left = int(rng.integers(0, pixels.shape[1] + 2 * SRC_PADDING - width + 1)) - SRC_PADDING
    rows, columns = reflected(top, height, pixels.shape[0]), reflected(left, width, pixels.shape[1])
    return Image.fromarray(pixels[np.ix_(rows, columns)])
