"""Reading the text files that a user names."""

from pathlib import Path

from util.errors import DataError, MissingInputError


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
