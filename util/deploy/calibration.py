"""The pictures that int8 is calibrated with. Imports no paddle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util.data.find_images import find_images
from util.data.images import decode_image
from util.data.transforms import EvalTransform
from util.errors import MissingInputError
from util.files import kind_of


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Preprocessed pictures float32 (N, C, H, W): those that set the ranges, and others to compare on."""

    images: np.ndarray
    held_out: np.ndarray


def read_calibration(folder: str, transform: EvalTransform, *, at_most: int) -> Calibration:
    """Reads pictures of a folder and those below, evenly over their sorted names: half set ranges, half are compared.

    at_most: pictures in all. No folder, or fewer than two pictures, is a MissingInputError; one that cannot be read an
    ImageError.
    """
    if kind_of(Path(folder)) != "folder":
        raise MissingInputError(f"{folder}: no such folder; --int8 names one with pictures like those to come")
    names = find_images(folder)
    if len(names) < 2:
        raise MissingInputError(f"{folder}: {len(names)} pictures; --int8 needs at least 2, some hundreds are better")
    places = np.unique(np.linspace(0, len(names) - 1, min(at_most, len(names))).astype(int))
    images = np.stack([transform(decode_image(str(Path(folder) / names[place]))) for place in places])
    return Calibration(images=images[::2], held_out=images[1::2])
