"""Files that a user names: text to read, and new ones to write."""

from pathlib import Path

from util.errors import DataError, MissingInputError, OutputError, UsageError


def read_text(path: Path) -> str:
    """Returns a UTF-8 file's text, without a BOM.

    A missing or unreadable file is a MissingInputError; anything but a regular file (a FIFO would block for ever) or
    UTF-8 is a DataError.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is not a regular file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such file") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None


def check_new_file(output: str, *, suffix: str) -> Path:
    """Returns the path of a file to write, which `--output` names.

    Another suffix is a UsageError; a file that is there already (or a link to nothing), or no folder to write it in, an
    OutputError.
    """
    path = Path(output)
    if path.suffix != suffix:
        raise UsageError(f"--output must end in {suffix}; got {output}")
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path}: exists; nothing is written over: choose another --output, or remove it")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: cannot be written: there is no folder {path.parent}")
    return path
