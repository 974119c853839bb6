"""RandAugment (Cubuk et al., arXiv 1909.13719) with timm's strings and timm's operations, pixel for pixel.

A string such as `rand-m9-n2-mstd0.5-inc1` holds, after `rand`: m magnitude (0 to 10), n operations an image, mstd
standard deviation of the magnitude (above 100: uniform from 0 to m), mmax its bound, p probability of each operation,
inc 1 for operations whose strength grows with the magnitude, w 0 for weighted choice without repetition.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from util.errors import UsageError

MAX_MAGNITUDE = 10.0
Fill = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """A parsed string; the names are the string's."""

    magnitude: float = 10.0
    num_ops: int = 2
    magnitude_std: float = 0.0
    max_magnitude: float = MAX_MAGNITUDE
    prob: float = 0.5
    increasing: bool = False
    weighted: bool = False


_KEYS: dict[str, tuple[str, Callable[[str], object]]] = {
    "m": ("magnitude", float),
    "n": ("num_ops", int),
    "mstd": ("magnitude_std", float),
    "mmax": ("max_magnitude", float),
    "p": ("prob", float),
    "inc": ("increasing", lambda text: bool(int(text))),
    "w": ("weighted", lambda text: int(text) == 0),
}


def parse_rand_augment(text: str) -> RandAugmentConfig:
    """Returns the configuration of `rand-...`; UsageError names the part that is wrong."""
    name, *parts = text.split("-")
    if name != "rand":
        raise UsageError(f"aa must begin with rand, such as rand-m9-mstd0.5-inc1; got {text!r}")
    values: dict[str, object] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", part)
        if match is None or match[1] not in _KEYS:
            raise UsageError(f"aa: {part!r} in {text!r} is not one of {', '.join(_KEYS)} followed by a number")
        field, convert = _KEYS[match[1]]
        if field in values:
            raise UsageError(f"aa: {match[1]} stands twice in {text!r}")
        try:
            values[field] = convert(match[2])
        except ValueError:
            raise UsageError(f"aa: {part!r} in {text!r} needs an integer") from None
    if values.get("weighted") is False:
        raise UsageError(f"aa: the only set of weights is w0; got {text!r}")
    config = RandAugmentConfig(**values)  # type: ignore[arg-type]
    if not 0.0 <= config.prob <= 1.0 or config.num_ops < 1:
        raise UsageError(f"aa: p must be in [0, 1] and n at least 1; got {text!r}")
    choices = sum(weight > 0 for weight in WEIGHTS)
    if config.weighted and config.num_ops > choices:
        raise UsageError(f"aa: w0 chooses from {choices} operations without repetition; got n{config.num_ops}")
    return config


# --- operations: (image, argument, fill, interpolation) -> image


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Fill, resample: Image.Resampling) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill)


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
    image: Image.Image, name: str, argument: float | None, *, fill: Fill, resample: Image.Resampling
) -> Image.Image:
    """Applies one operation to an RGB picture. `argument`: degrees, factor, bits, part of the side, ..."""
    value = 0.0 if argument is None else argument
    match name:
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
            return ImageOps.solarize(image, int(value))
        case "SolarizeAdd":
            return _solarize_add(image, value)
        case "Color":
            return _enhance(ImageEnhance.Color, image, value)
        case "Contrast":
            return _enhance(ImageEnhance.Contrast, image, value)
        case "Brightness":
            return _enhance(ImageEnhance.Brightness, image, value)
        case "Sharpness":
            return _enhance(ImageEnhance.Sharpness, image, value)
        case "ShearX":
            return _affine(image, (1, value, 0, 0, 1, 0), fill, resample)
        case "ShearY":
            return _affine(image, (1, 0, 0, value, 1, 0), fill, resample)
        case "TranslateXRel":
            return _affine(image, (1, 0, value * image.width, 0, 1, 0), fill, resample)
        case "TranslateYRel":
            return _affine(image, (1, 0, 0, 0, 1, value * image.height), fill, resample)
        case _:
            raise ValueError(f"unknown operation {name}")


# --- magnitudes -> arguments

OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
# Probabilities of the weighted choice, w0, in the order above.
WEIGHTS = (0.025, 0.005, 0.0, 0.3, 0.0, 0.005, 0.005, 0.025, 0.005, 0.005, 0.025, 0.2, 0.2, 0.1, 0.1)

_SYMMETRIC = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}
_ENHANCE = ("Color", "Contrast", "Brightness", "Sharpness")


def argument_of(name: str, magnitude: float, *, increasing: bool, negate: bool) -> float | None:
    """Returns the argument of operation `name` at a magnitude (0 to 10, or above with mmax).

    negate: the sign of the operations that go both ways, which the caller draws.
    """
    level = magnitude / MAX_MAGNITUDE
    sign = -1.0 if negate else 1.0
    if name in _SYMMETRIC:
        return sign * level * _SYMMETRIC[name]
    if name in _ENHANCE:
        return max(0.1, 1.0 + sign * 0.9 * level) if increasing else 1.8 * level + 0.1
    if name == "Posterize":
        return 4 - int(level * 4) if increasing else int(level * 4)
    if name == "Solarize":
        solarize = min(256, int(level * 256))
        return 256 - solarize if increasing else solarize
    if name == "SolarizeAdd":
        return min(128, int(level * 110))
    return None


def _draw_magnitude(config: RandAugmentConfig, rng: np.random.Generator) -> float:
    magnitude = config.magnitude
    if config.magnitude_std > 100:
        magnitude = rng.uniform(0.0, magnitude)
    elif config.magnitude_std > 0:
        magnitude = rng.normal(magnitude, config.magnitude_std)
    return min(max(0.0, magnitude), config.max_magnitude)


def rand_augment(
    image: Image.Image, rng: np.random.Generator, *, config: RandAugmentConfig, fill: Fill, resample: Image.Resampling
) -> Image.Image:
    """Applies `config.num_ops` random operations to an RGB picture, each with probability `config.prob`.

    fill: colour of what an operation uncovers; resample: Pillow's filter of the geometric ones.
    """
    probabilities = np.asarray(WEIGHTS) / sum(WEIGHTS) if config.weighted else None
    chosen = rng.choice(len(OPERATIONS), config.num_ops, replace=not config.weighted, p=probabilities)
    for name in (OPERATIONS[i] for i in chosen):
        if rng.random() >= config.prob:
            continue
        magnitude = _draw_magnitude(config, rng)
        negate = bool(rng.random() < 0.5)
        argument = argument_of(name, magnitude, increasing=config.increasing, negate=negate)
        image = apply_operation(image, name, argument, fill=fill, resample=resample)
    return image
