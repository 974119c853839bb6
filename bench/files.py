"""A data set of empty files, to be listed."""

import tempfile
from pathlib import Path

CLASSES, IMAGES = 1000, 100


def make_files(split: str = "train") -> Path:
    """Makes a temporary folder with 100 empty files in each of 1,000 classes, and returns it."""
    folder = Path(tempfile.mkdtemp(prefix="bench."))
    for number in range(CLASSES):
        place = folder / split / f"n{number:08d}"
        place.mkdir(parents=True)
        for image in range(IMAGES):
            (place / f"n{number:08d}_{image:05d}.JPEG").touch()
    return folder
