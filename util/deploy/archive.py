"""An export as one zip archive: packed for carrying, unpacked into a folder of this process. Imports no paddle."""

import atexit
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from util.deploy.manifest import MANIFEST
from util.errors import MissingInputError, OutputError, UserError, WeightsError

SUFFIX = ".zip"
FILES = (".json", ".pdmodel", ".pdiparams", ".onnx", ".yml", ".md")  # what exports hold; others stay in the archive
MAX_ENTRIES = 1000
MAX_RATIO = 200  # of an entry's size to its compressed one: weights do not get smaller, programs by 20 at most


def pack(folder: Path, names: Iterable[str], target: Path) -> None:
    """Writes files of a folder into a new archive, uncompressed, as weights hardly shrink. Raises an OSError."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.write(folder / name, name)


def unpack(path: Path) -> Path:
    """Returns a new folder with the files of an archived export; it is removed when the process ends.

    The export's folder may itself be the archive's one entry, as archivers do. An archive that is damaged, encrypted,
    or grows out of proportion, is a WeightsError; one without a manifest, or that cannot be read, a MissingInputError;
    no room for it an OutputError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _choose(path, archive)
            return _extract(path, archive, entries)
    except UserError:  # ValueErrors, too
        raise
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: is no readable zip archive: {error}") from None


def _choose(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Returns the entries of the folder that the manifest lies in."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise WeightsError(f"{path}: holds {len(entries)} entries; an export has a dozen")
    folders = {PurePosixPath(e.filename).parent for e in entries if PurePosixPath(e.filename).name == MANIFEST}
    if len(folders) != 1:
        reason = "several exports" if folders else f"no {MANIFEST}; zip the folder that export_model.py wrote"
        raise MissingInputError(f"{path}: holds {reason}")
    (folder,) = folders
    chosen = [e for e in entries if PurePosixPath(e.filename).parent == folder and e.filename.endswith(FILES)]
    for entry in chosen:
        if entry.file_size > MAX_RATIO * entry.compress_size + 4096:
            raise WeightsError(f"{path}: {entry.filename} claims {entry.file_size} bytes of {entry.compress_size}")
    return chosen


def _extract(path: Path, archive: zipfile.ZipFile, entries: Iterable[zipfile.ZipInfo]) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="export."))
    except OSError as error:
        raise OutputError(f"{path}: cannot be unpacked: {error.strerror}; name a folder with TMPDIR") from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for entry in entries:
        target = folder / PurePosixPath(entry.filename).name
        with archive.open(entry) as packed:
            try:
                with open(target, "xb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
            except FileExistsError:
                raise WeightsError(f"{path}: holds {entry.filename} twice") from None
            except OSError as error:
                raise OutputError(f"{path}: cannot be unpacked to {folder}: {error.strerror or error}") from None
    return folder
