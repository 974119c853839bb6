"""Inputs and weights that follow from a seed or a name alone, so that a golden file need only hold outputs."""

import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parent / "golden"

# Parameters and buffers by the last part of their name: standard normal values become offset + scale * value.
_SMALL = {"bias", "cls_token", "pos_embed"}
_AROUND_ONE = {"gating_param", "running_var"}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns a picture uint8 (H, W, 3): a smooth field of colours with noise of up to 20 on top."""
    rng = np.random.default_rng(seed)
    colours = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    field = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return (field + rng.integers(-20, 21, field.shape)).clip(0, 255).astype(np.uint8)


def images(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns standard normal images float32 (B, 3, H, W)."""
    return np.random.default_rng(seed).standard_normal((batch, 3, height, width)).astype(np.float32)


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Returns the float32 values of a parameter or buffer, by its official name and in PyTorch's layout."""
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    leaf = name.rpartition(".")[2]
    if leaf in _SMALL and (leaf == "bias" or len(shape) > 1):
        values = 0.02 * values
    elif leaf == "running_mean":
        values = 0.1 * values
    elif leaf in _AROUND_ONE or len(shape) <= 1:  # a variance is positive
        values = 1.0 + 0.1 * (np.abs(values) if leaf == "running_var" else values)
    else:
        values = values / math.sqrt(math.prod(shape[1:]))
    return values.astype(np.float32)
