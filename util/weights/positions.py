"""Fitting tables of positions to another input size (arXiv 2010.11929, section 3.2). Imports no paddle."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from paddle import nn


def resample_positions(table: np.ndarray, *, extra: int, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Returns a table of positions (1, extra + H W, C) for another grid of patches, float32.

    extra: rows that come first and belong to no place (the class token's); they stay. old, new: H, W. The grid is
    resized by bicubic interpolation (a = -0.5) with antialiasing, as timm does and as Pillow resizes a picture.
    """
    places = table[0, extra:].astype(np.float32).reshape(*old, -1)  # (H, W, C)
    resized = [
        np.asarray(Image.fromarray(places[:, :, channel]).resize((new[1], new[0]), Image.Resampling.BICUBIC))
        for channel in range(places.shape[2])
    ]
    grid = np.stack(resized, axis=-1).reshape(1, new[0] * new[1], -1)
    return np.concatenate([table[:, :extra].astype(np.float32), grid], axis=1)


def fit_positions(
    model: "nn.Layer", tensors: Mapping[str, np.ndarray], *, image_size: tuple[int, int] | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the tensors with each table of positions resampled to the model's grid, and a line about each that was.

    image_size: height and width that the weights were trained at; None when the file does not say, and then a table of
    as many rows as the model's is kept, and another one taken for a grid as high as wide. A table that fits no grid, or
    of another width, is left for `set_weights` to refuse, with all else that does not fit.
    """
    fitted, notes = dict(tensors), []
    own = model.state_dict()
    for name, (extra, new) in model.position_tables().items():
        table = tensors.get(name)
        if (
            table is None
            or table.ndim != 3
            or table.dtype.kind != "f"
            or table.shape[::2] != tuple(own[name].shape)[::2]
        ):
            continue
        if image_size is None and table.shape[1] == own[name].shape[1]:
            continue  # as many places as here: taken for the same grid, oblong ones too
        old = _grid(table.shape[1] - extra, image_size)
        if old is not None and old != new:
            fitted[name] = resample_positions(table, extra=extra, old=old, new=new)
            notes.append(f"{name} resampled from {old[0]} x {old[1]} to {new[0]} x {new[1]}")
    return fitted, notes


def _grid(places: int, image_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Returns height and width of a grid with the proportions of the images, None if there is none."""
    height, width = image_size or (1, 1)
    if places <= 0:
        return None
    rows = math.isqrt(places * height // width)
    return (
        (rows, places // rows)
        if rows and rows * (places // rows) == places and rows * width == places // rows * height
        else None
    )
