"""Whose fault it is that an image cannot be read: its own, or that of a disk, a network or a limit all images share.

An image of its own fault is listed, and another stands in for it. If the folder is gone, that would go on with every
image, until a run that lacks nothing but its data has spent all that it may replace. Imports no paddle.
"""

import errno
import os
from pathlib import Path

from util.data.images import ImageError
from util.errors import LimitError, ResumableError, UserError

# What a disk or a network file system answers that is gone. Of a file that is merely damaged, a disk says EIO as well.
_UNREACHABLE = (
    errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ECONNABORTED,
)  # fmt: skip
_MISSING = (errno.ENOENT, errno.ENOTDIR)
TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
TOO_MANY_FILES = "too many files are open: `ulimit -n 4096` raises the limit, and fewer --num_workers need fewer"
_BACK = "when it is back, the same command continues the run"


def first_missing(place: Path) -> Path | None:
    """Returns the uppermost of a place and the folders above it that is not there; None if the place is."""
    missing = None
    for path in (place, *place.parents):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            missing = path
        except OSError:
            return missing
        else:
            return missing
    return missing


def shared_failure(error: ImageError, *, root: Path, holder: Path, is_known: bool) -> UserError | None:
    """Returns the error to end with if an image cannot be read for what is no fault of its own, else None.

    root: the data folder. holder: what the image is in, a folder or a shard; if that is there and the image is not,
    the image is missing. is_known: whether an index marks the image as unreadable: then EIO is of this file alone.
    Gone data is a ResumableError, too many open files a LimitError.
    """
    if error.number in TOO_MANY_OPEN:
        return LimitError(f"{error.path}: {TOO_MANY_FILES}")
    if error.number in _MISSING:
        missing = first_missing(holder)
        return None if missing is None else ResumableError(f"{missing}: is not there any more; {_BACK}")
    if error.number not in _UNREACHABLE or (error.number == errno.EIO and is_known):
        return None
    at = os.path.relpath(error.path, root)
    text = f"{root}: cannot be read: {os.strerror(error.number)} (at {at}); {_BACK}"
    if error.number == errno.EIO and holder.is_dir():
        text += "; if that file alone is damaged, restore it, or let python -m util.data.check mark it"
    return ResumableError(text)
