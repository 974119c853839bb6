"""Keeps a second job from writing the same results."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from util.errors import OutputError

# what lockf says where a file system knows no locks
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class OutputLock:
    """Held by the process that writes `path`, in a file beside it; the kernel releases it with the process.

    output: what the user calls the results. Where the file system knows no locks, nothing is kept out.
    """

    def __init__(self, path: Path, *, output: str) -> None:
        self._place, self._output = Path(f"{path}.lock"), output
        self._file = -1

    def take(self) -> None:
        """Takes the lock, or raises an OutputError: another job has it, or nothing can be written there."""
        while True:
            try:
                file = os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise OutputError(f"{self._output}: cannot be written: {self._place.name}: {error.strerror}") from None
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                os.close(file)
                raise OutputError(
                    f"{self._output}: another job is writing it; wait, or choose another --output"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(file)
                    raise OutputError(f"{self._place}: cannot be locked: {error.strerror}") from None
            if self._is_at(file):
                self._file = file
                return
            os.close(file)  # the job before has removed it meanwhile

    def release(self) -> None:
        """Removes the file, and lets others in."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                self._place.unlink()
            os.close(self._file)
            self._file = -1

    def _is_at(self, file: int) -> bool:
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(file), os.stat(self._place))
        return False
