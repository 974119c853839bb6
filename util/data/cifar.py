"""CIFAR-10 and CIFAR-100 as their site distributes them: Python or binary version, archive or extracted files.

Layouts: https://www.cs.toronto.edu/~kriz/cifar.html. The Python version consists of pickles, which `plain_pickle` reads
without running anything; archives are read in memory, nothing is unpacked to the disk. Imports no paddle.
"""

import tarfile
import zlib
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from util.data.plain_pickle import read_pickle
from util.errors import DataError, MissingInputError, UsageError

SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE
FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_ARCHIVE_BYTES = 1 << 30  # the largest of the four has 170 MB
MAX_MEMBERS = 32  # the largest of the four has 9
MAX_FILE_BYTES = 1 << 28  # the largest, CIFAR-100's training images, has 155 MB


@dataclass(frozen=True, kw_only=True)
class Version:
    """One of the four distributions: what its files, and in the Python version its entries, are called."""

    name: str
    train: tuple[str, ...]
    test: str
    names: str  # the file with the class names
    label_bytes: int = 0  # binary version: bytes before an image's pixels; the last one is its label
    label_key: str = ""
    names_key: str = ""

    def files(self, *, train: bool) -> tuple[str, ...]:
        """Returns the files of a split, the class names' last."""
        return (*self.train, self.names) if train else (self.test, self.names)


VERSIONS = (
    Version(
        name="CIFAR-10",
        train=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
        test="test_batch",
        names="batches.meta",
        label_key="labels",
        names_key="label_names",
    ),
    Version(
        name="CIFAR-10",
        train=("data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"),
        test="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
    ),
    Version(
        name="CIFAR-100",
        train=("train",),
        test="test",
        names="meta",
        label_key="fine_labels",
        names_key="fine_label_names",
    ),
    Version(
        name="CIFAR-100",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,
    ),
)
FILE_NAMES = {file for v in VERSIONS for file in (*v.files(train=True), v.test)}

Files = dict[str, Path | bytes]  # by name without folders: an extracted file's path, an archived file's content


@dataclass(frozen=True)
class CifarSplit:
    """The training or the test images: where they are from, pixels uint8 (N, 32, 32, 3), labels int64 (N,), names."""

    place: Path
    pixels: np.ndarray
    labels: np.ndarray
    image_names: list[str]  # such as data_batch_1[17]
    class_names: list[str]


def load_cifar(data_dir: Path, *, train: bool) -> CifarSplit | None:
    """Returns a split of the CIFAR data set at `data_dir`, or None where there is none.

    data_dir: an archive; or a folder that holds the extracted files, one of the four folders of them, or an archive.
    Content decides, not the archive's name; extracted files come before archives. CIFAR-10 beside CIFAR-100 is a
    UsageError, a damaged or incomplete data set a DataError, a pickle that asks for code an UntrustedFileError.
    """
    known = [(place, files, version) for place, files in _candidates(data_dir) if (version := _version(files))]
    if not known:
        return None
    if len({version.name for *_, version in known}) > 1:
        places = " or ".join(str(place) for place, *_ in known)
        raise UsageError(f"{data_dir} holds both CIFAR-10 and CIFAR-100: name the one to use, {places}")
    place, files, version = known[0]
    missing = [name for name in version.files(train=train) if name not in files]
    if missing:
        raise DataError(f"{place}: {version.name} without {', '.join(missing)}: incomplete; download it again")
    return _read_split(place, files, version, train=train)


def _candidates(data_dir: Path) -> list[tuple[Path, Files]]:
    """Where CIFAR may be, with the files there that are called as CIFAR's."""
    if data_dir.is_file():
        return [(data_dir, _read_archive(data_dir, must_be_one=data_dir.name.endswith(ARCHIVE_SUFFIXES)))]
    folders = (data_dir, *(data_dir / name for name in FOLDERS))
    extracted = [(folder, _list_folder(folder)) for folder in folders]
    if any(_version(files) for _, files in extracted):
        return extracted
    archives = sorted(p for p in data_dir.iterdir() if p.name.endswith(ARCHIVE_SUFFIXES) and p.is_file())
    return [(path, _read_archive(path, must_be_one="cifar" in path.name.lower())) for path in archives]


def _version(files: Files) -> Version | None:
    """Two files tell a version; what is missing of it is said later."""
    counts = [sum(name in files for name in (*v.files(train=True), v.test)) for v in VERSIONS]
    return VERSIONS[int(np.argmax(counts))] if max(counts) >= 2 else None


def _list_folder(folder: Path) -> Files:
    return {name: folder / name for name in FILE_NAMES if (folder / name).is_file()}


def _read_archive(path: Path, *, must_be_one: bool) -> Files:
    """Returns the content of a tar archive's files that are called as CIFAR's, read in one pass.

    must_be_one: another file than an archive is a damaged one; or else it has none of these files.
    """
    files: Files = {}
    try:
        if path.stat().st_size > MAX_ARCHIVE_BYTES:
            return {}
        if not tarfile.is_tarfile(path):
            if must_be_one:
                raise tarfile.ReadError("its beginning is not that of an archive")
            return {}
        with tarfile.open(path) as archive:
            for _, member in zip(range(MAX_MEMBERS), archive, strict=False):
                if member.size > MAX_FILE_BYTES:
                    return {}
                name = PurePosixPath(member.name).name
                content = archive.extractfile(member) if name in FILE_NAMES and member.isfile() else None
                if content is not None:
                    files[name] = content.read()
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: damaged, or not downloaded completely ({reason}); download it again") from None
    return files


def _content(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{file}: too large for a file of CIFAR")
        return file.read_bytes()
    except OSError as error:
        raise MissingInputError(f"{file}: cannot be read: {error.strerror}") from None


def _read_split(place: Path, files: Files, version: Version, *, train: bool) -> CifarSplit:
    *batches, names_file = version.files(train=train)
    class_names = _read_names(_content(files[names_file]), version, f"{place}/{names_file}")
    pixels, labels, image_names = [], [], []
    for name in batches:
        read_batch = _read_binary if version.label_bytes else _read_python
        rows, found = read_batch(_content(files[name]), version, f"{place}/{name}")
        if found.max() >= len(class_names):
            raise DataError(f"{place}/{name}: label {found.max()} is outside the {len(class_names)} classes: damaged")
        pixels.append(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))  # (N, 3072) -> (N, 32, 32, 3)
        labels.append(found)
        image_names += [f"{name.removesuffix('.bin')}[{i}]" for i in range(len(found))]
    return CifarSplit(place, np.concatenate(pixels), np.concatenate(labels), image_names, class_names)


def _read_binary(data: bytes, version: Version, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels (N, 3072) and labels (N,) of records: coarse label (CIFAR-100 alone), label, red, green, blue."""
    record = version.label_bytes + PIXEL_BYTES
    if not data or len(data) % record:
        raise DataError(f"{source}: {len(data)} bytes are not a number of records of {record} bytes: damaged")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    return rows[:, version.label_bytes :], rows[:, version.label_bytes - 1].astype(np.int64)


def _read_python(data: bytes, version: Version, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels (N, 3072) and labels (N,) of a pickled batch."""
    batch = read_pickle(data, source)
    rows, labels = batch.get("data"), batch.get(version.label_key)
    if labels == [] and isinstance(rows, np.ndarray) and not rows.size:
        raise DataError(f"{source}: is empty, holds no images: damaged, or not downloaded completely")
    if not (isinstance(labels, list) and labels and all(type(n) is int and 0 <= n < 256 for n in labels)):
        raise DataError(f"{source}: no list of labels under {version.label_key!r}: damaged, or not {version.name}")
    if not isinstance(rows, np.ndarray) or rows.shape != (len(labels), PIXEL_BYTES):
        shape = rows.shape if isinstance(rows, np.ndarray) else "none"
        raise DataError(
            f"{source}: expected pixels ({len(labels)}, {PIXEL_BYTES}) under 'data', got {shape}: damaged, or not "
            f"{version.name}"
        )
    return rows, np.asarray(labels, np.int64)


def _read_names(data: bytes, version: Version, source: str) -> list[str]:
    if version.label_bytes:
        lines = [line.strip() for line in data.splitlines()]
        entries: Any = [line for line in lines if line]
    else:
        entries = read_pickle(data, source).get(version.names_key)
    names = [_class_name(entry, source) for entry in entries] if isinstance(entries, list) else []
    if not names or not all(names) or len(set(names)) < len(names):
        raise DataError(f"{source}: expected the names of the classes, each once: damaged, or not {version.name}")
    return names


def _class_name(entry: Any, source: str) -> str:
    """Returns a class name; an empty one for what is no text. A name that no line of a file can hold is a DataError."""
    try:
        name = entry.decode() if isinstance(entry, bytes) else entry
    except UnicodeDecodeError:
        raise DataError(f"{source}: class name {entry[:60]!r} is not UTF-8: damaged") from None
    if not isinstance(name, str):
        return ""
    if not name.isprintable():
        raise DataError(f"{source}: class name {name[:60]!r} has a line break or a control character: damaged")
    return name
