"""Errors that a user can cause, each with the exit code a script ends with."""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TextIO

from util.notes import leave_error

# Exit codes; those of user errors are the same numbers.
INTERNAL, CANNOT_WRITE, RESUMABLE, INTERRUPTED, TERMINATED = 70, 73, 75, 130, 143


class UserError(ValueError):
    """Something the user can mend: scripts print it as one line and exit with `exit_code`."""

    exit_code = INTERNAL


class UsageError(UserError):
    """A wrong option, value or combination."""

    exit_code = 2


class DataError(UserError):
    """An image, a label, a list file or a folder of images is not what it should be."""

    exit_code = 65


class MissingInputError(UserError):
    """A file or folder that was named does not exist."""

    exit_code = 66


class WeightsError(UserError):
    """A weights file does not fit the model, or is damaged."""

    exit_code = 65


class DamagedFileError(WeightsError):
    """A file is not what was written."""


class OutputError(UserError):
    """The output cannot be written there."""

    exit_code = CANNOT_WRITE


class SaveError(UserError):
    """Writing failed although the place was fit for it (disk full, device error)."""

    exit_code = 74


class LimitError(UserError):
    """The system lets a process have no more of what it needs (open files); it would be so again."""

    exit_code = 74


class ResumableError(UserError):
    """Something outside of the run broke down; started again, it goes on from its newest checkpoint."""

    exit_code = RESUMABLE


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite."""

    exit_code = 76


class UntrustedFileError(UserError):
    """A file asks for code to be run while it is read; it is refused."""

    exit_code = 77


class MismatchError(UserError):
    """Two things that must agree do not: settings and checkpoint, model and weights, export and input."""

    exit_code = 78


def listed(items: Iterable[str], limit: int, *, separator: str = ", ") -> str:
    """Returns the first `limit` items, and how many more there are: `a, b, and 1,203 more`."""
    names = list(items)
    more = [f"and {len(names) - limit:,} more"] if len(names) > limit else []
    return separator.join(names[:limit] + more)


class Stopped(Exception):  # noqa: N818  not an error: what was asked for
    """A signal ended the run, which has saved a complete checkpoint."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_FULL_OR_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def _report(message: str, code: int) -> NoReturn:
    """Prints the one line and exits."""
    _leave(f"error: {message}", code)


def _leave(text: str, code: int) -> NoReturn:
    """Prints a line and exits, and leaves both for run.sh, too.

    When one process of a job fails, the others break down too, and the launcher reports whichever it sees first.
    """
    leave_error(code, text)
    print(text, file=sys.stderr, flush=True)
    sys.exit(code)


def _exit_internal() -> NoReturn:
    """Ends the script on a mistake of this project's own: here the traceback is what helps."""
    traceback.print_exc()
    _report("internal error; please report it with the lines above", INTERNAL)


class _Forgiving:
    """Standard error, whose loss (a closed terminal, a full disk, a reader that went away) must not end a script."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def is_lost_worker(error: Exception) -> bool:
    """Whether this is what Paddle raises, wherever the main process is, when a worker of its DataLoader dies.

    It is a SystemError, and an OSError around one in the backward pass of an operator that is written in Python.
    """
    words = ("DataLoader process", "Blocking queue is killed")
    return isinstance(error, SystemError | OSError) and any(part in str(error) for part in words)


def _report_lost_worker() -> NoReturn:
    _report(
        "a process that loads images broke down, for the reason above; after a bus error use --no_shared_memory "
        "(/dev/shm is too small), without any reason fewer --num_workers (memory ran out)",
        ResumableError.exit_code,
    )


def run_script(main: Callable[[Sequence[str] | None], None]) -> None:
    """Runs a script's `main` and exits: user errors become one line on standard error and their exit code.

    A user error is any ValueError with an `exit_code`: `models`, which does not import this module, can raise one too.
    """
    stream = open(os.devnull, "w", encoding="utf-8") if sys.stderr is None else sys.stderr  # noqa: SIM115
    sys.stderr = _Forgiving(stream)
    try:
        main(None)
        if sys.stdout is not None:
            sys.stdout.flush()
    except ValueError as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            _exit_internal()
        _report(str(error), code)
    except Stopped as stopped:
        _leave(str(stopped), stopped.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains once more while it ends
        _report("standard output was closed before the results were written", SaveError.exit_code)
    except OSError as error:
        if is_lost_worker(error):
            _report_lost_worker()
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _report("too many files are open: `ulimit -n 4096` raises the limit", LimitError.exit_code)
        if error.errno not in _FULL_OR_BROKEN:
            _exit_internal()
        _report(f"{error.filename or 'output'}: not written: {error.strerror}", SaveError.exit_code)
    except SystemError as error:
        if not is_lost_worker(error):
            _exit_internal()
        _report_lost_worker()
    except Exception:
        _exit_internal()
    except KeyboardInterrupt:
        _report("interrupted", INTERRUPTED)
