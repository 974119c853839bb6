"""AugMix (Hendrycks et al., arXiv 1912.02781) with timm's strings and operations: chains of operations, averaged.

A string such as `augmix-m3-w3` holds, after `augmix`: m magnitude (0 to 10), w number of chains, d operations a chain
(left out: 1 to 3 at random), a parameter of the Dirichlet and Beta distributions of the weights, mstd standard
deviation of the magnitude (left out, or above 100: uniform from 0 to m). The picture may have any proportions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from util.data.operations import Canvas, apply_at, draw_magnitude
from util.data.policy_parts import Keys, read_parts
from util.errors import UsageError

OPERATIONS = (
    "AutoContrast", "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "Equalize",
    "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
MAX_SHIFT = 0.3
MAX_DEPTH = 3  # of a chain whose depth is drawn
MAX_LENGTH = 100  # of chains and their number; a typing mistake would take for ever


@dataclass(frozen=True, kw_only=True)
class AugMixConfig:
    """A parsed string; depth None: 1 to 3, drawn for each chain."""

    magnitude: float = 3.0
    width: int = 3
    depth: int | None = None
    alpha: float = 1.0
    magnitude_std: float = math.inf


_KEYS: Keys = {
    "m": ("magnitude", float),
    "w": ("width", int),
    "d": ("depth", int),
    "a": ("alpha", float),
    "mstd": ("magnitude_std", float),
}


def parse_aug_mix(text: str) -> AugMixConfig:
    """Returns the configuration of `augmix-...`; UsageError names the part that is wrong."""
    if text.partition("-")[0] != "augmix":
        raise UsageError(f"aa must begin with augmix, such as augmix-m3-w3; got {text!r}")
    config = AugMixConfig(**read_parts(text, _KEYS))
    fits = 1 <= config.width <= MAX_LENGTH and (config.depth is None or 1 <= config.depth <= MAX_LENGTH)
    if not fits or not 0.0 < config.alpha < math.inf:
        raise UsageError(f"aa: w and d must be in [1, {MAX_LENGTH}] and a positive; got {text!r}")
    return config


def mix_chains(
    image: Image.Image, chains: Sequence[Image.Image], *, weights: Sequence[float] | np.ndarray, ratio: float
) -> Image.Image:
    """Returns (1 - ratio) * image + ratio * the weighted mean of the chains, all RGB pictures of one size."""
    mixed = np.zeros((image.height, image.width, 3), np.float32)
    for weight, chain in zip(weights, chains, strict=True):
        mixed += np.float32(weight) * np.asarray(chain, np.float32)
    return Image.blend(image, Image.fromarray(mixed.clip(0, 255).astype(np.uint8)), ratio)


def aug_mix(image: Image.Image, rng: np.random.Generator, *, config: AugMixConfig, canvas: Canvas) -> Image.Image:
    """Mixes an RGB picture with the weighted mean of `config.width` randomly augmented copies of itself."""
    weights = rng.dirichlet([config.alpha] * config.width)
    ratio = float(rng.beta(config.alpha, config.alpha))
    chains = []
    for _ in range(config.width):
        depth = config.depth or int(rng.integers(1, MAX_DEPTH + 1))
        chain = image
        for i in rng.integers(len(OPERATIONS), size=depth):
            magnitude = draw_magnitude(rng, config.magnitude, std=config.magnitude_std)
            chain = apply_at(chain, rng, OPERATIONS[i], magnitude, canvas=canvas, max_shift=MAX_SHIFT)
        chains.append(chain)
    return mix_chains(image, chains, weights=weights, ratio=ratio)
