"""Files that a user names: text to read, and new ones to write."""

import codecs
import contextlib
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from util.errors import DataError, MissingInputError, OutputError, UsageError


def kind_of(path: Path) -> Literal["file", "folder", "other", "nothing"]:
    """Returns what is at a path, links followed; only a regular file can be opened without waiting for anybody.

    What cannot be asked (a folder without permission, a name that is too long, links in a circle) is a
    MissingInputError; pathlib's own questions raise an OSError there.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        if kind_of(path) in ("folder", "other"):
            raise DataError(f"{path}: is not a regular file")
        yield
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such file") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None


def read_text(path: Path) -> str:
    """Returns a UTF-8 file's text, without a BOM.

    A missing or unreadable file is a MissingInputError; anything but a regular file (a FIFO would block for ever) or
    UTF-8 is a DataError.
    """
    with _reading(path):
        return path.read_text(encoding="utf-8-sig")


def read_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a file of paths, without a BOM; only \\n and \\r\\n end them, since names may hold the rest.

    What is not UTF-8 becomes what `os.fsdecode` makes of it. The errors are those of `read_text`.
    """
    with _reading(path), open(path, "rb") as file:
        for number, line in enumerate(file):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
            yield content.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")


def as_field(text: str) -> str:
    """Returns a text as a field of a .tsv file: backslash, tab and ends of lines are written as two characters."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def as_line(text: str) -> str:
    """Returns a text as one line that can be printed: what ends lines, or is not UTF-8, gets a backslash."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_new_file(output: str, *, suffix: str) -> Path:
    """Returns the path of a file to write, which `--output` names.

    Another suffix is a UsageError; a file that is there already (or a link to nothing), or a place where no file can be
    made, an OutputError. That is tried, with a file whose name is as long as those that `write_container` works with:
    permissions do not tell what a read-only disk or `/proc` will do.
    """
    path = Path(output)
    if path.suffix != suffix:
        raise UsageError(f"--output must end in {suffix}; got {output}")
    try:
        if path.is_symlink() or path.exists():
            raise OutputError(f"{path}: exists; nothing is written over: choose another --output, or remove it")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: cannot be written: there is no folder {path.parent}")
        tempfile.NamedTemporaryFile(prefix=f".tmp-{path.name}-", dir=path.parent).close()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another --output") from None
    return path
