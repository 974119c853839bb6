"""The list of unreadable images that `python -m util.data.check` writes: a line `path TAB reason` each.

Imports no paddle.
"""

import errno
from collections.abc import Iterable
from pathlib import Path

from util.errors import OutputError, SaveError
from util.files import as_field, kind_of

_OTHER = "name another with --bad_list, or remove it"


def check_bad_list(path: Path) -> None:
    """Refuses, with an OutputError, a place that holds anything else than such a list, which writing would destroy."""
    kind = kind_of(path)
    if kind in ("folder", "other"):
        raise OutputError(f"{path}: is not a regular file; {_OTHER}")
    try:
        if kind == "file" and not _is_bad_list(path):
            raise OutputError(
                f"{path}: is there, and is no list of unreadable images (lines of path, tab and reason); {_OTHER}"
            )
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}; {_OTHER}") from None


def _is_bad_list(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        return all(line.endswith("\n") and line.count("\t") == 1 and "\0" not in line for line in lines)


def write_bad_list(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Writes path and reason of each image that cannot be used; without any an empty file: an old list would lie.

    Backslash, tab and line breaks are written as \\\\ \\t \\n \\r.
    """
    text = "".join(f"{as_field(name)}\t{as_field(reason)}\n" for name, reason in rows)
    try:
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise _not_written(path, error) from None


def remove_bad_list(path: Path) -> None:
    """Removes the list of before, if there is one; `check_bad_list` has seen that it is one."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(path, error) from None


def _not_written(path: Path, error: OSError) -> OutputError | SaveError:
    kind = SaveError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else OutputError
    return kind(f"{path}: cannot be written: {error.strerror}; name another with --bad_list")
