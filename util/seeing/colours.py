"""From maps to colours: one scale from dark to light, over a picture or alone.

Legend: h w a map on a grid of tokens, H W pixels.
"""

import numpy as np
from PIL import Image

# Position, R, G, B: dark blue, violet, red, orange, yellow, nearly white. Lightness grows from end to end, so that the
# scale is one in grey, too, and to whoever does not see red. The server's page has the same, in attention.js.
ANCHORS = np.array(
    [
        (0.00, 10, 12, 48),
        (0.20, 72, 18, 108),
        (0.42, 160, 38, 102),
        (0.62, 222, 82, 62),
        (0.80, 248, 150, 36),
        (0.92, 250, 214, 92),
        (1.00, 254, 252, 214),
    ]
)

ROUNDING = 1e-5  # of a value: what is less apart is not drawn as a difference


def colour(values: np.ndarray) -> np.ndarray:
    """Returns the colours of values in [0, 1], of any shape: uint8 (..., 3); what is outside gets an end's colour."""
    channels = [np.interp(values, ANCHORS[:, 0], ANCHORS[:, i]) for i in (1, 2, 3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def scaled(values: np.ndarray, *, from_zero: bool = False) -> np.ndarray:
    """Returns a map in [0, 1], float32 of the same shape: its least value is 0 and its largest 1.

    from_zero: 0 stays 0, for maps that are never negative. A map whose values are the same but for rounding becomes 0.
    """
    low = 0.0 if from_zero else float(values.min())
    span = float(values.max()) - low
    if not span > ROUNDING * float(np.abs(values).max()):
        return np.zeros(values.shape, np.float32)
    return ((values - low) / span).astype(np.float32)


def to_pixels(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a map (h, w) at a size in pixels (width, height), float32 (H, W), in between linear."""
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def overlay(picture: Image.Image, values: np.ndarray, *, alpha: float) -> Image.Image:
    """Returns a picture with the colours of a map (h, w) of [0, 1] over it; alpha: what part they have."""
    return Image.blend(picture, Image.fromarray(colour(to_pixels(values, picture.size))), alpha)


def seen_picture(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Image.Image:
    """Returns the picture that a model was given as normalised pixels, float32 (C, H, W); grey stays grey."""
    pixels = image * np.array(std, np.float32)[:, None, None] + np.array(mean, np.float32)[:, None, None]
    levels = (255.0 * pixels).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    return Image.fromarray(np.broadcast_to(levels, (*levels.shape[:2], 3)).copy())


def enlarged(picture: Image.Image, *, least: int) -> Image.Image:
    """Returns a picture whose longer side has at least so many pixels; each becomes a square."""
    factor = -(-least // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
