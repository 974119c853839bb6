"""Decoded picture -> normalised array: the training transform and the one evaluation transform of all scripts.

Each function follows what timm and torchvision do, rounding included, because published accuracies rest on it.
Imports no paddle.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from util.data.backends import Backend, load_backend
from util.data.color_augment import BLUR_SIGMA, gaussian_blur, jitter_colors, to_grey
from util.data.crops import center_start, covering_size, random_resized_crop, simple_random_crop
from util.data.images import Picture
from util.data.operations import Canvas, Fill
from util.data.policies import parse_aa
from util.data.random_erasing import random_erasing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropMode = Literal["center", "squash"]
Part = tuple[float, float, float, float]  # of a picture: left, top, right, bottom, as fractions of width and height
RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
RANDOM_RESAMPLES = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)

EvalTransform = Callable[[Picture], np.ndarray]
TrainTransform = Callable[[Picture, np.random.Generator], np.ndarray]


def to_size(input_size: int | tuple[int, ...]) -> tuple[int, int]:
    """Returns (height, width) of a side, (H, W) or (C, H, W)."""
    if isinstance(input_size, int):
        return input_size, input_size
    if len(input_size) == 1:
        return input_size[0], input_size[0]
    return input_size[-2], input_size[-1]


def channel_statistics(
    mean: tuple[float, ...], std: tuple[float, ...], input_size: int | tuple[int, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std with a value a channel: when the size says (1, H, W), the average of three.

    Anything but 3 values each, or 1, is a ValueError.
    """
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise ValueError(f"mean and std have 3 values each, or 1 for grey; got {mean} and {std}")
    grey = not isinstance(input_size, int) and len(input_size) == 3 and input_size[0] == 1
    if grey and len(mean) == 3:
        return (sum(mean) / 3,), (sum(std) / 3,)
    return mean, std


def normalise(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Returns (pixel / 255 - mean) / std of an RGB picture, float32 (C, H, W), contiguous.

    C is the number of means: 3, or 1 for a picture that is made grey first, as Pillow does.
    """
    channels = (image.convert("L"),) if len(mean) == 1 else image.split()
    result = np.empty((len(channels), image.height, image.width), np.float32)
    for plane, channel, center, spread in zip(result, channels, mean, std, strict=True):
        levels = np.frombuffer(channel.tobytes(), np.uint8).reshape(plane.shape)  # sooner than np.asarray
        np.divide(levels, np.float32(255), out=plane)
        plane -= np.float32(center)
        plane /= np.float32(spread)
    return result


def eval_transform(
    *,
    input_size: int | tuple[int, ...] = 224,
    crop_pct: float = 0.875,
    interpolation: Interpolation = "bicubic",
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    crop_mode: CropMode = "center",
    image_backend: Backend = "pil",
) -> EvalTransform:
    """Returns f(image) -> float32 (3, H, W), the preprocessing of eval, predict, infer and the export.

    input_size: side, (H, W) or (C, H, W) of the result.
    mean, std: of R, G and B; with one value each, or input_size (1, H, W), the result is grey, (1, H, W).
    crop_mode: `center` resizes so that the picture covers input_size / crop_pct (rounded down) and crops the centre;
    `squash` resizes both sides to input_size, whatever the proportions, and does not use crop_pct.
    image_backend: what resizes; `image` is what its `open` takes.
    """
    backend = load_backend(image_backend)
    height, width = to_size(input_size)
    mean, std = channel_statistics(mean, std, input_size)
    resample = RESAMPLE[interpolation]

    def transform(image: Picture) -> np.ndarray:
        whole = backend.open(image)
        if crop_mode == "squash":
            picture = backend.resize_box(whole, (0, 0, whole.width, whole.height), (height, width), resample)
        else:
            picture = backend.resize_and_center_crop(
                whole, _cover((height, width), crop_pct), (height, width), resample
            )
        return normalise(picture, mean, std)

    return transform


def _cover(size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """Returns the height and width that a resized picture covers, of which the centre crop is `size`."""
    return math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct)


def seen_part(
    source: tuple[int, int], *, input_size: int | tuple[int, ...], crop_pct: float, crop_mode: CropMode
) -> Part:
    """Returns which part of a picture is in the result of `eval_transform`. source: the picture's (height, width)."""
    if crop_mode == "squash":
        return 0.0, 0.0, 1.0, 1.0
    height, width = to_size(input_size)
    full_height, full_width = covering_size(source, _cover((height, width), crop_pct))
    top, left = center_start(full_height, height), center_start(full_width, width)
    return left / full_width, top / full_height, (left + width) / full_width, (top + height) / full_height


def _happens(rng: np.random.Generator, prob: float) -> bool:
    """Returns whether something of probability `prob` happens; nothing is drawn where it is certain."""
    return prob > 0.0 and (prob >= 1.0 or rng.random() < prob)


def _flip(image: Image.Image, rng: np.random.Generator, hflip: float, vflip: float) -> Image.Image:
    if rng.random() < hflip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < vflip:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image


def _fill(mean: tuple[float, ...]) -> Fill:
    levels = [min(255, max(0, round(255 * value))) for value in mean]
    return (levels[0], levels[0], levels[0]) if len(levels) == 1 else (levels[0], levels[1], levels[2])


def train_transform(
    *,
    input_size: int | tuple[int, ...] = 224,
    aug: bool = True,
    train_crop_mode: Literal["rrc", "src"] = "rrc",
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bicubic",
    train_interpolation: Interpolation | Literal["random"] | None = None,
    hflip: float = 0.5,
    vflip: float = 0.0,
    color_jitter: float = 0.4,
    color_jitter_prob: float = 1.0,
    grayscale_prob: float = 0.0,
    gaussian_blur_prob: float = 0.0,
    aa: str | None = None,
    reprob: float = 0.0,
    remode: Literal["const", "rand", "pixel"] = "pixel",
    recount: int = 1,
    recount_min: int = 1,
    rearea: tuple[float, float] = (0.02, 1 / 3),
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    image_backend: Backend = "pil",
) -> TrainTransform:
    """Returns f(image, rng) -> float32 (C, H, W): crop, flips, aa, colour jitter, grey, blur, normalising, erasing.

    The arguments are the options of the same names, the order is timm's. Colour jitter is off while `aa` is on, unless
    that is 3a. `train_interpolation` none is `interpolation`; random chooses for the crop and for each operation of aa.
    With one mean, or input_size (1, H, W), the result is grey, (1, H, W), and all before is done in colour. `aug=False`
    resizes to cover input_size and crops the centre, with `interpolation`. All randomness comes from `rng`, and the
    boxes and strengths that are drawn do not depend on `image_backend`: it decodes, crops, resizes, shears and shifts.
    """
    backend = load_backend(image_backend)
    if not aug:
        plain = eval_transform(
            input_size=input_size,
            crop_pct=1.0,
            interpolation=interpolation,
            mean=mean,
            std=std,
            image_backend=image_backend,
        )
        return lambda image, rng: plain(image)
    size = to_size(input_size)
    channel_mean, channel_std = channel_statistics(mean, std, input_size)
    chosen = train_interpolation or interpolation
    canvas = Canvas(
        fill=_fill(mean),
        resamples=RANDOM_RESAMPLES if chosen == "random" else (RESAMPLE[chosen],),
        exact=image_backend == "pil",
    )
    policy = None if aa is None else parse_aa(aa)
    jitter_prob = color_jitter_prob if color_jitter > 0 and aa in (None, "3a") else 0.0

    def transform(image: Picture, rng: np.random.Generator) -> np.ndarray:
        resample, resize_box = canvas.draw_resample(rng), backend.resize_box
        whole = backend.open(image)
        if train_crop_mode == "rrc":
            picture = random_resized_crop(
                whole, rng, size=size, scale=scale, ratio=ratio, resample=resample, resize_box=resize_box
            )
        else:
            picture = simple_random_crop(whole, rng, size=size, resample=resample, resize_box=resize_box)
        picture = _flip(picture, rng, hflip, vflip)
        if policy is not None:
            picture = policy(picture, rng, canvas)
        if _happens(rng, jitter_prob):
            picture = jitter_colors(picture, rng, color_jitter)
        if _happens(rng, grayscale_prob):
            picture = to_grey(picture)
        if _happens(rng, gaussian_blur_prob):
            picture = gaussian_blur(picture, rng.uniform(*BLUR_SIGMA))
        array = normalise(picture, channel_mean, channel_std)
        return random_erasing(array, rng, prob=reprob, mode=remode, counts=(recount_min, recount), area=rearea)

    return transform
