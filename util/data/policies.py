"""The automatic augmentations that `aa` can name: from its string to a function of picture and generator."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from util.data.aug_mix import aug_mix, parse_aug_mix
from util.data.auto_augment import POLICIES, auto_augment, parse_auto_augment
from util.data.operations import Canvas
from util.data.rand_augment import parse_rand_augment, rand_augment
from util.data.three_augment import three_augment
from util.data.trivial_augment import trivial_augment
from util.errors import UsageError

Policy = Callable[[Image.Image, np.random.Generator, Canvas], Image.Image]


def parse_aa(text: str) -> Policy:
    """Returns what the string `aa` names, f(RGB picture, rng, canvas) -> RGB picture.

    UsageError: the name is not known, and all are listed; or a part after it is wrong.
    """
    name = text.partition("-")[0]
    if name == "rand":
        rand = parse_rand_augment(text)
        return lambda image, rng, canvas: rand_augment(image, rng, config=rand, canvas=canvas)
    if name == "augmix":
        mix = parse_aug_mix(text)
        return lambda image, rng, canvas: aug_mix(image, rng, config=mix, canvas=canvas)
    if name in POLICIES:
        auto = parse_auto_augment(text)
        return lambda image, rng, canvas: auto_augment(image, rng, config=auto, canvas=canvas)
    if text == "3a":
        return lambda image, rng, canvas: three_augment(image, rng)
    if text == "trivialaugwide":
        return lambda image, rng, canvas: trivial_augment(image, rng, canvas=canvas)
    raise UsageError(
        f"aa must be rand-m9-mstd0.5-inc1 (m n mstd mmax p inc w), {', '.join(POLICIES)} (each also with -mstd0.5), "
        f"augmix-m3-w3 (m w d a mstd), 3a, trivialaugwide, or none; got {text!r}"
    )
