"""Operations on an RGB picture that all automatic augmentations share, with timm's names, strengths and pixels.

A magnitude from 0 to 10 becomes an operation's argument (degrees, factor, bits, ...) by its name: one that ends in
Increasing changes the picture more as the magnitude grows, where the plain one does not, and PosterizeOriginal has the
strengths of AutoAugment's paper.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from util.data.line_filters import move_lines, smooth

MAX_MAGNITUDE = 10.0
MAX_SHIFT = 0.45  # of the side, at magnitude 10
Fill = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What geometric operations need besides their argument.

    fill: colour of what they uncover; resamples: Pillow's filters, of which each operation gets one at random.
    exact: whether shears and translations have Pillow's pixels; otherwise they may be a level away, and take less time.
    """

    fill: Fill
    resamples: tuple[Image.Resampling, ...]
    exact: bool = True

    def draw_resample(self, rng: np.random.Generator) -> Image.Resampling:
        """Returns one of the filters; of a single one, without drawing."""
        return self.resamples[0 if len(self.resamples) == 1 else rng.integers(len(self.resamples))]


# --- operations


def _move_rows(
    image: Image.Image, fill: Fill, resample: Image.Resampling, exact: bool, *, slope: float = 0.0, shift: float = 0.0
) -> Image.Image:
    """Shears or shifts along the rows: pixel (x, y) comes from (x + slope * y + shift, y), of the pixels' centres."""
    moved = move_lines(image, slope=slope, shift=shift, fill=fill, resample=resample, exact=exact)
    if moved is not None:
        return moved
    matrix = (1, slope, shift, 0, 1, 0)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill)


def _move_columns(
    image: Image.Image, fill: Fill, resample: Image.Resampling, exact: bool, *, slope: float = 0.0, shift: float = 0.0
) -> Image.Image:
    """The same along the columns."""
    turned = image.transpose(Image.Transpose.TRANSPOSE)
    return _move_rows(turned, fill, resample, exact, slope=slope, shift=shift).transpose(Image.Transpose.TRANSPOSE)


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keeps the highest bits. None or fewer: a black picture, which ImageOps.posterize refuses since Pillow 13."""
    mask = 0xFF00 >> min(max(bits, 0), 8) & 0xFF
    return image.point([i & mask for i in range(256)] * 3)


def _solarize_add(image: Image.Image, amount: float, threshold: int = 128) -> Image.Image:
    table = [min(255, i + int(amount)) if i < threshold else i for i in range(256)]
    return image.point(table * 3)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance], image: Image.Image, factor: float) -> Image.Image:
    return kind(image).enhance(factor)


def apply_operation(
    image: Image.Image,
    name: str,
    argument: float | None,
    *,
    fill: Fill,
    resample: Image.Resampling,
    exact: bool = True,
) -> Image.Image:
    """Applies one operation to an RGB picture. `argument`: degrees, factor, bits, pixels, part of the side, ..."""
    value = 0.0 if argument is None else argument
    match name.removesuffix("Increasing").removesuffix("Original"):
        case "Identity":
            return image
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Invert":
            return ImageOps.invert(image)
        case "Rotate":
            return image.rotate(value, resample=resample, fillcolor=fill)
        case "Posterize":
            return _posterize(image, int(value))
        case "Solarize":
            return ImageOps.solarize(image, math.ceil(value))
        case "SolarizeAdd":
            return _solarize_add(image, value)
        case "Color":
            return _enhance(ImageEnhance.Color, image, value)
        case "Contrast":
            return _enhance(ImageEnhance.Contrast, image, value)
        case "Brightness":
            return _enhance(ImageEnhance.Brightness, image, value)
        case "Sharpness":
            return Image.blend(smooth(image), image, value)  # what ImageEnhance.Sharpness does
        case "ShearX":
            return _move_rows(image, fill, resample, exact, slope=value)
        case "ShearY":
            return _move_columns(image, fill, resample, exact, slope=value)
        case "TranslateX":
            return _move_rows(image, fill, resample, exact, shift=value)
        case "TranslateY":
            return _move_columns(image, fill, resample, exact, shift=value)
        case "TranslateXRel":
            return _move_rows(image, fill, resample, exact, shift=value * image.width)
        case "TranslateYRel":
            return _move_columns(image, fill, resample, exact, shift=value * image.height)
        case _:
            raise ValueError(f"unknown operation {name}")


# --- magnitudes -> arguments, as functions of level = magnitude / 10 and sign


def _posterize_bits(level: float) -> int:
    return int(level * 4)


def _solarize_threshold(level: float) -> int:
    return min(256, int(level * 256))


def _enhance_factor(level: float, sign: float) -> float:
    return 1.8 * level + 0.1


def _enhance_factor_increasing(level: float, sign: float) -> float:
    return max(0.1, 1.0 + sign * 0.9 * level)


_ARGUMENTS: dict[str, Callable[[float, float], float]] = {
    "Rotate": lambda level, sign: sign * level * 30.0,
    "ShearX": lambda level, sign: sign * level * 0.3,
    "ShearY": lambda level, sign: sign * level * 0.3,
    "Posterize": lambda level, sign: _posterize_bits(level),
    "PosterizeIncreasing": lambda level, sign: 4 - _posterize_bits(level),
    "PosterizeOriginal": lambda level, sign: 4 + _posterize_bits(level),
    "Solarize": lambda level, sign: _solarize_threshold(level),
    "SolarizeIncreasing": lambda level, sign: 256 - _solarize_threshold(level),
    "SolarizeAdd": lambda level, sign: min(128, int(level * 110)),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), _enhance_factor),
    **dict.fromkeys(
        ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
        _enhance_factor_increasing,
    ),
}
_WITHOUT_ARGUMENT = ("AutoContrast", "Equalize", "Invert")


def argument_of(name: str, magnitude: float, *, negate: bool, max_shift: float = MAX_SHIFT) -> float | None:
    """Returns the argument of operation `name` at a magnitude (0 to 10, or above with mmax).

    negate: the sign of the operations that go both ways, which the caller draws.
    max_shift: what magnitude 10 means to TranslateXRel and TranslateYRel, as a part of the side.
    """
    if name in _WITHOUT_ARGUMENT:
        return None
    level = magnitude / MAX_MAGNITUDE
    sign = -1.0 if negate else 1.0
    if name in ("TranslateXRel", "TranslateYRel"):
        return sign * level * max_shift
    return _ARGUMENTS[name](level, sign)


def draw_magnitude(rng: np.random.Generator, magnitude: float, *, std: float, maximum: float = MAX_MAGNITUDE) -> float:
    """Returns a magnitude in [0, maximum]: normal around `magnitude`, or uniform below it with an std above 100."""
    if std > 100:
        magnitude = rng.uniform(0.0, magnitude)
    elif std > 0:
        magnitude = rng.normal(magnitude, std)
    return min(max(0.0, magnitude), maximum)


def apply_at(
    image: Image.Image,
    rng: np.random.Generator,
    name: str,
    magnitude: float,
    *,
    canvas: Canvas,
    max_shift: float = MAX_SHIFT,
) -> Image.Image:
    """Applies operation `name` at a magnitude, in a random direction where it has two."""
    argument = argument_of(name, magnitude, negate=bool(rng.random() < 0.5), max_shift=max_shift)
    resample = canvas.draw_resample(rng)
    return apply_operation(image, name, argument, fill=canvas.fill, resample=resample, exact=canvas.exact)
