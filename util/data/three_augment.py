"""3-Augment of DeiT III (Touvron et al., arXiv 2204.07118): solarisation, grey or Gaussian blur, each for a third.

The paper adds colour jitter of 0.3 to it, which `color_jitter` does: it stays on beside `aa: 3a`.
"""

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from util.data.color_augment import to_grey

SOLARIZE_THRESHOLD = 128
BLUR_RADIUS = (0.1, 2.0)  # standard deviations in pixels, uniform


def three_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Applies one of the three to an RGB picture."""
    match rng.integers(3):
        case 0:
            return ImageOps.solarize(image, SOLARIZE_THRESHOLD)
        case 1:
            return to_grey(image)
        case _:
            return image.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADIUS)))
