"""Which images the names on a command line stand for: files, folders, globs, lists. Imports no paddle."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from util.data.images import is_hidden, is_image_name
from util.data.paths import Paths
from util.errors import DataError, MissingInputError, UsageError
from util.files import read_lines


def collect_inputs(names: Sequence[str], *, option: str) -> Paths:
    """Returns the image files that the names stand for: files, folders (recursive), globs, `@list.txt`.

    option: what names them on the command line, for the error. What a folder or a glob stands for is sorted. No file is
    opened or asked about; a million paths take some 50 MB.
    Nothing found is a MissingInputError, a folder that cannot be read or a line that is no path a DataError.
    """
    block = bytearray()
    for name in names:
        for path in _files_of(name):
            if block:
                block += b"\0"
            block += path.encode("utf-8", "surrogateescape")
    if not block:
        raise UsageError(f"no images: name files, folders, globs or @list.txt with {option}")
    return Paths(np.frombuffer(block, np.uint8))


def _files_of(name: str) -> Iterator[str]:
    """Yields the files that one name stands for, at least one, except for a list without lines."""
    if name.startswith("@"):
        yield from _listed_files(Path(name[1:]))
        return
    if os.path.isdir(name):
        found, nothing = walk_images(name), "no images in this folder"
    elif os.path.lexists(name):
        found, nothing = iter([name]), ""
    elif glob.has_magic(name):
        found, nothing = iter(sorted(glob.iglob(name, recursive=True))), "nothing matches"
    else:
        raise MissingInputError(f"{name}: no such file or folder")
    first = next(found, None)
    if first is None:
        raise MissingInputError(f"{name}: {nothing}")
    yield first
    yield from found


def _listed_files(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_lines(path), start=1):
        if "\0" in line:
            raise DataError(f"{path}:{number}: the path has a null character, {line.strip()!r}")
        if name := line.strip(" \t"):
            yield name


def walk_images(folder: str) -> Iterator[str]:
    """Yields the image files below a folder in the order of their paths; holds the names of one folder a level.

    Hidden files and folders are left out, links to files are followed, links to folders are not. A folder that cannot
    be read is a DataError.
    """
    try:
        with os.scandir(folder) as entries:  # which says what is a folder without another question a file
            kept = [
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not is_hidden(entry.name) and not (entry.is_symlink() and os.path.isdir(entry.path))
            ]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    # with the slash that follows it in the paths, a folder's name is where sorted paths have what it holds
    for name in sorted(f"{name}/" if is_folder else name for name, is_folder in kept):
        if name.endswith("/"):
            yield from walk_images(os.path.join(folder, name[:-1]))
        elif is_image_name(name):
            yield os.path.join(folder, name)
