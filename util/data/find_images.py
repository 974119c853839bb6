"""Which images a folder holds, for class folders and for prediction alike."""

import os
from pathlib import Path
from typing import NoReturn

from util.data.images import is_hidden, is_image_name
from util.errors import DataError


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None


def find_images(folder: str | Path) -> list[str]:
    """Returns the image files below a folder, relative to it, sorted; hidden files and folders are left out.

    Links to files are followed, links to folders are not. A folder that cannot be read is a DataError.
    """
    found = []
    for where, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(f for f in folders if not is_hidden(f))
        relative = os.path.relpath(where, folder)
        for name in files:
            if is_image_name(name):
                found.append(name if relative == "." else os.path.join(relative, name))
    return sorted(found)
