"""RandAugment (Cubuk et al., arXiv 1909.13719) with timm's strings.

A string such as `rand-m9-n2-mstd0.5-inc1` holds, after `rand`: m magnitude (0 to 10), n operations an image, mstd
standard deviation of the magnitude (above 100: uniform from 0 to m), mmax its bound, p probability of each operation,
inc 1 for operations whose strength grows with the magnitude, w 0 for weighted choice without repetition (timm's first
set of weights; later versions have others, under t, which is not offered). inc0 is the same as no inc.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from util.data.operations import MAX_MAGNITUDE, Canvas, apply_at, draw_magnitude
from util.data.policy_parts import Keys, read_parts
from util.errors import UsageError

OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
INCREASING = {"Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"}  # what inc1 exchanges
OPERATIONS_INCREASING = tuple(name + "Increasing" if name in INCREASING else name for name in OPERATIONS)
# Probabilities of the weighted choice, w0, in the order above.
WEIGHTS = (0.025, 0.005, 0.0, 0.3, 0.0, 0.005, 0.005, 0.025, 0.005, 0.005, 0.025, 0.2, 0.2, 0.1, 0.1)
MAX_OPERATIONS = 100  # an image; a typing mistake would take for ever


@dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """A parsed string."""

    magnitude: float = 10.0
    num_ops: int = 2
    magnitude_std: float = 0.0
    max_magnitude: float = MAX_MAGNITUDE
    prob: float = 0.5
    increasing: bool = False
    weighted: bool = False


_KEYS: Keys = {
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
    if text.partition("-")[0] != "rand":
        raise UsageError(f"aa must begin with rand, such as rand-m9-mstd0.5-inc1; got {text!r}")
    values = read_parts(text, _KEYS)
    if values.get("weighted") is False:
        raise UsageError(f"aa: the only set of weights is w0; got {text!r}")
    config = RandAugmentConfig(**values)
    if not 0.0 <= config.prob <= 1.0 or not 1 <= config.num_ops <= MAX_OPERATIONS:
        raise UsageError(f"aa: p must be in [0, 1] and n in [1, {MAX_OPERATIONS}]; got {text!r}")
    choices = sum(weight > 0 for weight in WEIGHTS)
    if config.weighted and config.num_ops > choices:
        raise UsageError(f"aa: w0 chooses from {choices} operations without repetition; got n{config.num_ops}")
    return config


def rand_augment(
    image: Image.Image, rng: np.random.Generator, *, config: RandAugmentConfig, canvas: Canvas
) -> Image.Image:
    """Applies `config.num_ops` random operations to an RGB picture, each with probability `config.prob`."""
    operations = OPERATIONS_INCREASING if config.increasing else OPERATIONS
    probabilities = np.asarray(WEIGHTS) / sum(WEIGHTS) if config.weighted else None
    chosen = rng.choice(len(operations), config.num_ops, replace=not config.weighted, p=probabilities)
    for name in (operations[i] for i in chosen):
        if rng.random() >= config.prob:
            continue
        magnitude = draw_magnitude(rng, config.magnitude, std=config.magnitude_std, maximum=config.max_magnitude)
        image = apply_at(image, rng, name, magnitude, canvas=canvas)
    return image
