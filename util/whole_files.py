"""Files that are written whole or not at all, and refused before hours of work if they cannot be written."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from util.errors import OutputError, SaveError
from util.prediction import check_output


def check_whole_output(output: str) -> None:
    """Refuses what `check_output` does, and a folder that `write_whole` cannot write the file in."""
    check_output(output)
    path = Path(os.path.realpath(output))
    if path.is_file() or not path.exists():
        create_folder(path.parent)


def create_folder(path: Path) -> None:
    """Makes a folder, or finds it; an OutputError if it cannot be written to."""
    probe = path / f".tmp-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a file beside, then renames it to `path`: there is the old file or the new one, never a part.

    The file beside keeps the suffix. A link stays one; a pipe or a device is written to directly. What goes wrong
    while writing is a SaveError.
    """
    target = Path(os.path.realpath(path))
    is_file = target.is_file() or not target.exists()
    beside = target.with_name(f".tmp-{os.getpid()}{path.suffix}") if is_file else target
    try:
        write(beside)
        if is_file:
            os.replace(beside, target)
    except OSError as error:
        reason = error.strerror or error
        raise SaveError(f"{path}: not written: {reason}; make room or choose another place, and run again") from None
    finally:
        with contextlib.suppress(OSError):
            if is_file:
                beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file as `write_whole` does. Names of files that are not UTF-8 are written with backslashes."""
    write_whole(path, lambda beside: _write_text(beside, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
