"""The folder that pictures are written to: a name for each image, whole files only."""

import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from util.whole_files import create_folder, write_whole

MAX_BYTES = 200  # of an image's name; a file's may have 255


class PictureFolder:
    """Writes files into one folder, which is made; a file of the same name from before is replaced as a whole.

    A folder that cannot be written to is an OutputError, a file that cannot be written a SaveError.
    """

    def __init__(self, output: str) -> None:
        self.path = Path(output)
        self._taken: set[str] = set()
        create_folder(self.path)

    def name_of(self, file: str) -> str:
        """Returns an image's name here: its own without suffix, with a number if another image has it already.

        Names that differ in case alone count as the same: on some disks they are.
        """
        stem = Path(file).stem
        while len(os.fsencode(stem)) > MAX_BYTES:
            stem = stem[:-1]
        name, number = stem, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name.casefold())
        return name

    def write_picture(self, name: str, picture: Image.Image) -> Path:
        """Writes `<name>.png` and returns its path."""
        path = self.path / f"{name}.png"
        write_whole(path, lambda beside: picture.save(beside, format="PNG"))
        return path

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> Path:
        """Writes `<name>.npz`, which numpy reads, and returns its path."""
        path = self.path / f"{name}.npz"
        write_whole(path, lambda beside: _save_arrays(beside, arrays))
        return path


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes what `numpy.savez` does, without its `allow_pickle`, which older versions take for an array."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
