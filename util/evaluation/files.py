"""Writing an evaluation's files: what cannot be written is refused before the evaluation, not after it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from util.errors import OutputError, SaveError, UsageError


def check_output(output: str) -> None:
    """Refuses a results file of another form (UsageError), or where none can be written (OutputError).

    What is there stays; where nothing is, an empty file is made.
    """
    if Path(output).suffix not in (".jsonl", ".csv"):
        raise UsageError(f"--output must end in .jsonl or .csv; got {output}")
    try:
        with open(output, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from None


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

    The file beside keeps the suffix. What goes wrong while writing is a SaveError.
    """
    beside = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        write(beside)
        os.replace(beside, path)
    except OSError as error:
        raise SaveError(f"{path}: not written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file as `write_whole` does. Names of files that are not UTF-8 are written with backslashes."""
    write_whole(path, lambda beside: _write_text(beside, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
