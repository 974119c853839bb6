"""Random changes of colour and sharpness besides the automatic ones: jitter, grey, Gaussian blur, as torchvision's."""

import numpy as np
from PIL import Image, ImageEnhance

from util.data.crops import reflected

BLUR_SIGMA = (0.1, 2.0)  # pixels, uniform
BLUR_REACH = 11  # pixels on each side: timm's kernel of 23
NEGLIGIBLE = 1e-7  # of the kernel's sum: below float32's resolution


def jitter_colors(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Changes brightness, contrast and saturation by factors in [1 - strength, 1 + strength], in random order."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength, len(enhancers))
    for i in rng.permutation(len(enhancers)):
        image = enhancers[i](image).enhance(float(factors[i]))
    return image


def to_grey(image: Image.Image) -> Image.Image:
    """Returns the RGB picture without colour."""
    return image.convert("L").convert("RGB")


def gaussian_blur(image: Image.Image, sigma: float) -> Image.Image:
    """Blurs an RGB picture with a Gaussian of `sigma` pixels, edges reflected: the exact kernel, not Pillow's boxes."""
    kernel = np.exp(-0.5 * np.square(np.arange(BLUR_REACH + 1) / sigma))
    kernel /= kernel[0] + 2 * kernel[1:].sum()
    kernel = kernel[kernel > NEGLIGIBLE].astype(np.float32)
    pixels: np.ndarray = np.asarray(image).astype(np.float32)
    for _ in range(2):  # along the rows, then, transposed, along the columns
        reach = len(kernel) - 1
        length = pixels.shape[0]
        padded = pixels[reflected(-reach, length + 2 * reach, length)]
        pixels = kernel[0] * pixels
        for k in range(1, reach + 1):
            both = padded[reach - k : reach - k + length] + padded[reach + k : reach + k + length]
            pixels += kernel[k] * both
        pixels = np.ascontiguousarray(pixels.transpose(1, 0, 2))  # (H, W, 3) -> (W, H, 3) -> (H, W, 3)
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
