"""Decoded picture -> normalised array: the training transform and the one evaluation transform of all scripts.

Each function follows what timm and torchvision do, rounding included, because published accuracies rest on it.
Imports no paddle.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance

from util.data.rand_augment import parse_rand_augment, rand_augment
from util.data.random_erasing import random_erasing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_ATTEMPTS = 10

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Picture = Image.Image | np.ndarray
EvalTransform = Callable[[Picture], np.ndarray]
TrainTransform = Callable[[Picture, np.random.Generator], np.ndarray]


def to_size(input_size: int | tuple[int, ...]) -> tuple[int, int]:
    """Returns (height, width) of a side, (H, W) or (C, H, W)."""
    if isinstance(input_size, int):
        return input_size, input_size
    if len(input_size) == 1:
        return input_size[0], input_size[0]
    return input_size[-2], input_size[-1]


def to_picture(image: Picture) -> Image.Image:
    """Returns a PIL RGB picture from one, or from uint8 (H, W, 3); anything else is a ValueError."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image is uint8 (H, W, 3); got {image.dtype} {image.shape}")
        return Image.fromarray(image)
    if image.mode != "RGB":
        raise ValueError(f"an image is RGB; got mode {image.mode}: use decode_image, or convert it")
    return image


def normalise(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Returns (pixel / 255 - mean) / std of an RGB picture, float32 (3, H, W), contiguous."""
    pixels: np.ndarray = np.asarray(image).astype(np.float32) / np.float32(255)
    pixels = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (H, W, 3) -> (3, H, W)


def resize(image: Image.Image, height: int, width: int, interpolation: Interpolation) -> Image.Image:
    """Resizes with Pillow's antialiasing filter; the same size returns the picture itself."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), RESAMPLE[interpolation])


def resize_to_cover(image: Image.Image, height: int, width: int, interpolation: Interpolation) -> Image.Image:
    """Resizes, keeping the proportions, to the smallest picture that covers (height, width); lengths round down."""
    if image.width * height <= image.height * width:  # the width decides
        return resize(image, max(height, int(width * image.height / image.width)), width, interpolation)
    return resize(image, height, max(width, int(height * image.width / image.height)), interpolation)


def center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Crops the centre; half pixels round to even, as in torchvision."""
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def random_resized_crop(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    interpolation: Interpolation,
) -> Image.Image:
    """Crops a random box and resizes it to `size` (height, width).

    scale: bounds of the box's part of the area, uniform; ratio: bounds of its width / height, uniform in the logarithm.
    After 10 boxes that do not fit, the largest centred box whose ratio is within bounds.
    """
    for _ in range(CROP_ATTEMPTS):
        area = image.width * image.height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= image.width and 0 < h <= image.height:
            top, left = int(rng.integers(0, image.height - h + 1)), int(rng.integers(0, image.width - w + 1))
            break
    else:
        w, h = image.width, image.height
        if w / h < ratio[0]:
            h = max(1, round(w / ratio[0]))
        elif w / h > ratio[1]:
            w = max(1, round(h * ratio[1]))
        top, left = (image.height - h) // 2, (image.width - w) // 2
    return resize(image.crop((left, top, left + w, top + h)), *size, interpolation)


def jitter_colors(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Changes brightness, contrast and saturation by factors in [1 - strength, 1 + strength], in random order."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength, len(enhancers))
    for i in rng.permutation(len(enhancers)):
        image = enhancers[i](image).enhance(float(factors[i]))
    return image


def eval_transform(
    *,
    input_size: int | tuple[int, ...] = 224,
    crop_pct: float = 0.875,
    interpolation: Interpolation = "bicubic",
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    crop_mode: Literal["center", "squash"] = "center",
) -> EvalTransform:
    """Returns f(image) -> float32 (3, H, W), the preprocessing of eval, predict, infer and the export.

    input_size: side, (H, W) or (C, H, W) of the result.
    crop_mode: `center` resizes so that the picture covers input_size / crop_pct (rounded down) and crops the centre;
    `squash` resizes both sides to input_size, whatever the proportions, and does not use crop_pct.
    """
    height, width = to_size(input_size)

    def transform(image: Picture) -> np.ndarray:
        picture = to_picture(image)
        if crop_mode == "squash":
            picture = resize(picture, height, width, interpolation)
        else:
            cover = math.floor(height / crop_pct), math.floor(width / crop_pct)
            picture = center_crop(resize_to_cover(picture, *cover, interpolation), height, width)
        return normalise(picture, mean, std)

    return transform


def train_transform(
    *,
    input_size: int | tuple[int, ...] = 224,
    aug: bool = True,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    hflip: float = 0.5,
    vflip: float = 0.0,
    color_jitter: float = 0.4,
    aa: str | None = None,
    interpolation: Interpolation = "bicubic",
    reprob: float = 0.0,
    remode: Literal["const", "rand", "pixel"] = "pixel",
    recount: int = 1,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> TrainTransform:
    """Returns f(image, rng) -> float32 (3, H, W): random crop, flips, RandAugment or colour jitter, erasing.

    The arguments are the options of the same names. Colour jitter is off while `aa` is on, as in timm. `aug=False`
    resizes to cover input_size and crops the centre. All randomness comes from `rng`.
    """
    size = to_size(input_size)
    if not aug:
        plain = eval_transform(input_size=size, crop_pct=1.0, interpolation=interpolation, mean=mean, std=std)
        return lambda image, rng: plain(image)
    config = None if aa is None else parse_rand_augment(aa)
    fill = (round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2]))

    def transform(image: Picture, rng: np.random.Generator) -> np.ndarray:
        picture = to_picture(image)
        picture = random_resized_crop(picture, rng, size=size, scale=scale, ratio=ratio, interpolation=interpolation)
        if rng.random() < hflip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < vflip:
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if config is not None:
            picture = rand_augment(picture, rng, config=config, fill=fill, resample=RESAMPLE[interpolation])
        elif color_jitter > 0:
            picture = jitter_colors(picture, rng, color_jitter)
        array = normalise(picture, mean, std)
        return random_erasing(array, rng, prob=reprob, mode=remode, max_count=recount)

    return transform
