"""The few file operations that saving consists of, in an order that survives a kill, a full disk and a power cut.

A new file is written beside its place, synced and only then renamed; its folder is synced afterwards, or the renaming
could be lost with the power. Each operation is a function of its own, called by its name in this module, so that a test
can record, interrupt or fail every one of them. Imports no paddle.
"""

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from util.errors import SaveError

T = TypeVar("T")

CHUNK = 16 << 20  # bytes a single call reads or writes: a kill or a signal waits no longer than for that
PAUSES = (1.0, 2.0, 4.0)  # seconds before a failed operation is tried again

# What waiting does not mend.
_LASTING = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EFBIG, errno.EINVAL,
)  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNSUPPORTED = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EACCES, errno.EMLINK)


# --- operations


def create(path: Path) -> int:
    """Makes a file that was not there, with the mode that the umask leaves, and returns its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def write(descriptor: int, data: memoryview) -> int:
    """Writes the beginning of `data`, as much as the system takes, and returns how many bytes. Releases the GIL."""
    return os.write(descriptor, data)


def sync(descriptor: int) -> None:
    """Waits until a file's content is on the disk."""
    os.fsync(descriptor)


def forget(descriptor: int) -> None:
    """Asks the system to drop its copy of a synced file, so that reading it back reads the disk; macOS cannot."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def close(descriptor: int) -> None:
    """Closes a file; network file systems report here what they could not write."""
    os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Renames a file over another, at once."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Gives a file a second name."""
    os.link(source, target)


def unlink(path: Path) -> None:
    """Removes a file."""
    os.unlink(path)


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Returns a file's bytes from `start` up to `stop`, or its end, in chunks. Releases the GIL."""
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        place = start
        while stop is None or place < stop:
            piece = file.read(CHUNK if stop is None else min(CHUNK, stop - place))
            if not piece:
                return
            place += len(piece)
            yield piece


# --- what is made of them


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes a new file and syncs it. Whatever interrupts or fails this, the unfinished file is removed."""
    try:
        descriptor = create(path)
    except FileExistsError:  # left by a killed process with our number, which in a container is always the same
        unlink(path)
        descriptor = create(path)
    try:
        try:
            for piece in pieces:
                _write_whole(descriptor, memoryview(piece))
            sync(descriptor)
            forget(descriptor)
        finally:
            close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            unlink(path)
        raise


def _write_whole(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[write(descriptor, data[:CHUNK]) :]


def beside(path: Path) -> Path:
    """Returns where a file is written before it is renamed to `path`."""
    return path.with_name(f".tmp-{path.name}-{os.getpid()}")


def write_over(path: Path, data: bytes) -> None:
    """Writes a small file, or leaves what was there."""
    unfinished = beside(path)
    write_file(unfinished, [data])
    try:
        replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unlink(unfinished)
        raise


def put(unfinished: Path, path: Path, *, previous: Path | None, size: int) -> None:
    """Renames a synced file to `path`, and syncs the folder. Each step is tried again as in `retried`.

    previous: where to keep what is at `path`. There is no moment without a whole file at `path`, unless the file
    system knows no second names; then one at `previous`, and a failure undoes that.
    """
    kept = unfinished.with_name(f"{unfinished.name}-previous")
    is_moved = False
    try:
        if previous is not None and path.exists():
            is_moved = not retried(lambda: _keep(path, kept, previous), path, size=size)
        retried(lambda: replace(unfinished, path), path, size=size)
        if previous is not None and os.path.lexists(kept):
            retried(lambda: replace(kept, previous), previous, size=size)
    except BaseException:
        with contextlib.suppress(OSError):
            if is_moved and previous is not None and not path.exists():
                replace(previous, path)
        with contextlib.suppress(OSError):
            unlink(kept)
        raise
    retried(lambda: _sync_names(path.parent), path, size=size)


def _keep(path: Path, kept: Path, previous: Path) -> bool:
    """Gives a file the second name `kept`, or renames it to `previous`; returns whether the first was possible."""
    try:
        with contextlib.suppress(FileNotFoundError):
            unlink(kept)
        link(path, kept)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        replace(path, previous)
        return False
    return True


def _sync_names(folder: Path) -> None:
    try:
        sync_folder(folder)
    except OSError as error:
        if error.errno not in (*_UNSUPPORTED, errno.EBADF):  # some file systems cannot sync a folder
            raise


def retried(operation: Callable[[], T], path: Path, *, size: int) -> T:
    """Returns what `operation`, a part of writing `path`, returns; a passing failure is waited for and tried again.

    size: of what is written, in bytes, for the message. Raises a SaveError.
    """
    for pause in PAUSES:
        try:
            return operation()
        except OSError as error:
            if error.errno in _LASTING:
                raise _failure(path, error, size) from None
            logging.getLogger("run.storage").warning(
                f"{path}: not saved yet: {_reason(path, error, size)}; trying again in {pause:g} s"
            )
        time.sleep(pause)
    try:
        return operation()
    except OSError as error:
        raise _failure(path, error, size) from None


def _failure(path: Path, error: OSError, size: int) -> SaveError:
    return SaveError(f"{path}: not saved: {_reason(path, error, size)}; earlier checkpoints are untouched")


def _reason(path: Path, error: OSError, size: int) -> str:
    reason = error.strerror or str(error)
    if error.errno not in _FULL:
        return reason
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        return f"{reason}; it needs {size / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
    return f"{reason}; it needs {size / 1e6:.1f} MB"


def append_line(path: Path, text: str, *, patient: bool = True) -> None:
    """Adds one line to a file, in one write, so that lines of several processes do not mix, and syncs it.

    A last line that was cut off when a run was killed is ended first. patient: failures are tried again. SaveError.
    """
    assert "\n" not in text, text
    line = text.encode("utf-8", "surrogateescape") + b"\n"
    if patient:
        retried(lambda: _append(path, line), path, size=len(line))
        return
    try:
        _append(path, line)
    except OSError as error:
        raise _failure(path, error, len(line)) from None


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = write(descriptor, memoryview(line))
        if written < len(line):
            if os.fstat(descriptor).st_size == size + written:  # nobody has added anything since
                os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)
    finally:
        close(descriptor)
