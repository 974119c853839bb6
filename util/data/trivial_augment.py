"""TrivialAugment (Müller and Hutter, arXiv 2103.10158) with its wide strengths, as torchvision has them.

One of 14 operations, at one of 31 strengths, both uniform. As in the project's other policies, uncovered pixels get the
mean colour and pictures are resampled as in training; torchvision leaves them black and takes the nearest unless told.
"""

import numpy as np
from PIL import Image

from util.data.operations import Canvas, apply_operation

OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
NUM_STRENGTHS = 31
_ENHANCE = ("Brightness", "Color", "Contrast", "Sharpness")


def argument_at(name: str, strength: int, *, negate: bool) -> float | None:
    """Returns the argument of operation `name` at a strength of 0 to 30.

    negate: the sign of the operations that go both ways, which the caller draws.
    """
    level = strength / (NUM_STRENGTHS - 1)
    sign = -1.0 if negate else 1.0
    match name:
        case "ShearX" | "ShearY":
            return sign * 0.99 * level
        case "TranslateX" | "TranslateY":
            return sign * int(32 * level)  # whole pixels
        case "Rotate":
            return sign * 135.0 * level
        case "Posterize":
            return 8 - round(6 * level)
        case "Solarize":
            return 255.0 * (1.0 - level)
        case _:
            return 1.0 + sign * 0.99 * level if name in _ENHANCE else None


def trivial_augment(image: Image.Image, rng: np.random.Generator, *, canvas: Canvas) -> Image.Image:
    """Applies one random operation of random strength to an RGB picture."""
    name = OPERATIONS[rng.integers(len(OPERATIONS))]
    argument = argument_at(name, int(rng.integers(NUM_STRENGTHS)), negate=bool(rng.random() < 0.5))
    resample = canvas.draw_resample(rng)
    return apply_operation(image, name, argument, fill=canvas.fill, resample=resample, exact=canvas.exact)
