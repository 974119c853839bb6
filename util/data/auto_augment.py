"""AutoAugment (Cubuk et al., arXiv 1805.09501) with timm's strings.

`original` is the ImageNet policy of the paper's appendix, `v0` the one of Google's EfficientNet; `originalr` and `v0r`
are the same with a posterisation that grows stronger with the magnitude. `-mstd0.5` draws the magnitudes, normal with
that standard deviation (above 100: uniform from 0 to the policy's magnitude).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from util.data.operations import Canvas, apply_at, draw_magnitude
from util.data.policy_parts import Keys, read_parts
from util.errors import UsageError

Step = tuple[str, float, int]  # operation, probability, magnitude
SubPolicy = tuple[Step, Step]

_ORIGINAL: tuple[SubPolicy, ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
_V0: tuple[SubPolicy, ...] = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateYRel", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


def _with_posterize(policy: tuple[SubPolicy, ...], posterize: str) -> tuple[SubPolicy, ...]:
    """Returns the policy with another scale of the posterisation's magnitudes."""

    def exchange(step: Step) -> Step:
        return (posterize, *step[1:]) if step[0] == "Posterize" else step

    return tuple((exchange(first), exchange(second)) for first, second in policy)


POLICIES = {
    "v0": _V0,
    "v0r": _with_posterize(_V0, "PosterizeIncreasing"),
    "original": _with_posterize(_ORIGINAL, "PosterizeOriginal"),
    "originalr": _with_posterize(_ORIGINAL, "PosterizeIncreasing"),
}


@dataclass(frozen=True, kw_only=True)
class AutoAugmentConfig:
    """A parsed string."""

    policy: str
    magnitude_std: float = 0.0


_KEYS: Keys = {"mstd": ("magnitude_std", float)}


def parse_auto_augment(text: str) -> AutoAugmentConfig:
    """Returns the configuration of `<policy>` or `<policy>-mstd<number>`; UsageError names the part that is wrong."""
    policy = text.partition("-")[0]
    if policy not in POLICIES:
        raise UsageError(f"aa: AutoAugment's policies are {', '.join(POLICIES)}; got {text!r}")
    return AutoAugmentConfig(policy=policy, **read_parts(text, _KEYS))


def auto_augment(
    image: Image.Image, rng: np.random.Generator, *, config: AutoAugmentConfig, canvas: Canvas
) -> Image.Image:
    """Applies one of the policy's 25 pairs of operations to an RGB picture, each operation with its probability."""
    pairs = POLICIES[config.policy]
    for name, prob, magnitude in pairs[rng.integers(len(pairs))]:
        if rng.random() < prob:
            drawn = draw_magnitude(rng, magnitude, std=config.magnitude_std)
            image = apply_at(image, rng, name, drawn, canvas=canvas)
    return image
