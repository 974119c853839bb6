"""A self-verifying file: safetensors with the rest of the state as JSON in the header, and a sha256 over both.

safetensors alone notices truncation and lying headers, but loads a flipped bit silently; the hash closes that gap.
Writing goes to a file beside, which is synced, read back, verified and only then renamed, so that a crash leaves the
old file or the new one. Imports no paddle.
"""

import contextlib
import errno
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from util import storage
from util.errors import DamagedFileError, MissingInputError, NonFiniteLossError, WeightsError
from util.libraries import SafetensorError, safe_open

FORMAT = "paddle-cvt-checkpoint"
VERSION = 1  # a later version must hash something else, or its files would count as version 1's with a flipped bit
MAX_HEADER = 100_000_000  # bytes; the library refuses a longer one

_TYPES = {  # numpy's name -> safetensors'
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<u2": "U16", "<i2": "I16", "<u4": "U32", "<i4": "I32", "<u8": "U64",
    "<i8": "I64", "<f2": "F16", "<f4": "F32", "<f8": "F64",
}  # fmt: skip
_UNREADABLE = (errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO))  # the disk's, not the permissions'


class NewerFileError(WeightsError):
    """The file was written by a later version of this project."""


@dataclass(frozen=True)
class Container:
    """What a file holds: tensors by name, and the state."""

    tensors: dict[str, np.ndarray]
    state: dict[str, Any]


def _digest(contents: Iterable[tuple[str, str, tuple[int, ...], Iterable[bytes | memoryview]]], state: str) -> str:
    """Returns the sha256 of a state and of tensors sorted by name, each given as name, numpy's type, shape, bytes."""
    sha = hashlib.sha256(state.encode())
    for name, dtype, shape, pieces in contents:
        sha.update(f"{name} {dtype} {shape}".encode())
        for piece in pieces:
            sha.update(piece)  # releases the GIL
    return sha.hexdigest()


def _digest_of(tensors: Mapping[str, np.ndarray], state: str) -> str:
    return _digest(
        ((name, tensor.dtype.str, tensor.shape, [_bytes_of(tensor)]) for name, tensor in sorted(tensors.items())), state
    )


def _bytes_of(tensor: np.ndarray) -> memoryview:
    """Returns a tensor's bytes in C order; a copy only if it lies otherwise in memory."""
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


# --- writing


@dataclass(frozen=True)
class _Layout:
    """A file that is to be written: its header's bytes, its sha256, and each tensor's place, in the file's order."""

    header: bytes
    sha256: str
    state: str
    places: dict[str, tuple[int, int]]  # first byte, and the one after the last

    @property
    def size(self) -> int:
        return max((stop for _, stop in self.places.values()), default=len(self.header))


def _layout(tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> _Layout:
    """Returns what the file will be like: the same bytes for the same content."""
    text = json.dumps(state, sort_keys=True)
    sha256 = _digest_of(tensors, text)
    header: dict[str, Any] = {
        "__metadata__": {"format": FORMAT, "version": str(VERSION), "state": text, "sha256": sha256}
    }
    end = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):  # each is aligned to its type
        tensor = tensors[name]
        entry = {"dtype": _TYPES[tensor.dtype.str], "shape": list(tensor.shape)}
        header[name] = entry | {"data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    encoded = len(encoded).to_bytes(8, "little") + encoded
    places = {
        name: (len(encoded) + entry["data_offsets"][0], len(encoded) + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }
    return _Layout(encoded, sha256, text, places)


def write_container(
    path: Path, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any], *, previous: Path | None = None
) -> None:
    """Writes `path`, or leaves what was there. A full disk or a device error is a SaveError, after it was waited for.

    previous: where to keep the file that is replaced. A tensor with NaN or infinite values is a NonFiniteLossError:
    such a checkpoint could only spread the damage. Hashing, writing and reading back let other threads run.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise NonFiniteLossError(f"{path}: not saved: {name} has NaN or infinite values")
        if tensor.dtype.str not in _TYPES:
            raise TypeError(f"{path}: {name} has elements of type {tensor.dtype}, expected one of {', '.join(_TYPES)}")
    layout = _layout(tensors, state)

    def write(unfinished: Path) -> None:
        contents = (_bytes_of(tensors[name]) for name in layout.places)
        storage.write_file(unfinished, itertools.chain([layout.header], contents))
        _verify(unfinished, layout, tensors)

    _write_in_place(path, write, size=layout.size, previous=previous)


def _verify(path: Path, layout: _Layout, tensors: Mapping[str, np.ndarray]) -> None:
    """Reads a file back, a chunk at a time; an OSError if it is not what was written."""
    header = b"".join(storage.read(path, 0, len(layout.header)))
    contents = (
        (n, tensors[n].dtype.str, tensors[n].shape, storage.read(path, *layout.places[n])) for n in sorted(tensors)
    )
    same = path.stat().st_size == layout.size and header == layout.header
    if not same or _digest(contents, layout.state) != layout.sha256:
        raise OSError(errno.EIO, "what was read back is not what was written")


def copy_container(source: Path, path: Path) -> None:
    """Copies a file that was just written, and so verified, to `path`, or leaves what was there. Errors as above."""

    def write(unfinished: Path) -> None:
        storage.write_file(unfinished, storage.read(source))
        pairs = zip(storage.read(source), storage.read(unfinished), strict=False)
        if unfinished.stat().st_size != source.stat().st_size or any(a != b for a, b in pairs):
            raise OSError(errno.EIO, "what was read back is not what was written")

    size = storage.retried(lambda: source.stat().st_size, path, size=0)
    _write_in_place(path, write, size=size, previous=None)


def _write_in_place(path: Path, write: Callable[[Path], None], *, size: int, previous: Path | None) -> None:
    """Lets `write` make and check a file beside `path`, then renames it."""
    unfinished = storage.beside(path)
    try:
        storage.retried(lambda: write(unfinished), path, size=size)
        storage.put(unfinished, path, previous=previous, size=size)
    finally:  # also when interrupted; after the renaming there is nothing to remove
        with contextlib.suppress(OSError):
            storage.unlink(unfinished)


# --- reading


@contextlib.contextmanager
def _opened(path: Path, *, whole: bool) -> Iterator[Any]:
    """whole: whether all of the file will be read, not its header alone."""
    try:
        if not path.is_file():
            raise MissingInputError(f"{path}: no such file" if not path.exists() else f"{path}: is not a file")
        _touch(path, whole=whole)
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise DamagedFileError(f"{path}: damaged, or not a safetensors file: {error}") from None
    except OSError as error:
        if error.errno in _UNREADABLE:
            raise DamagedFileError(f"{path}: damaged: {error.strerror}") from None
        raise MissingInputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _touch(path: Path, *, whole: bool) -> None:
    """Reads what safetensors is about to map: a place that the disk cannot read ends the process there, not here."""
    start = b"".join(storage.read(path, 0, 8))
    stop = 8 + min(int.from_bytes(start, "little"), MAX_HEADER)
    for _ in storage.read(path, 0, None if whole else stop):
        pass


def read_container(path: Path) -> Container:
    """Returns a verified file's content. Damage of any kind is a DamagedFileError."""
    with _opened(path, whole=True) as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise WeightsError(f"{path}: a safetensors file, but not a checkpoint of this project")
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (TypeError, ValueError) as error:
            raise DamagedFileError(f"{path}: damaged: {error}") from None
    text, version = metadata.get("state", ""), metadata.get("version")
    is_whole = _digest_of(tensors, text) == metadata.get("sha256")
    if version != str(VERSION):
        if is_whole:
            raise DamagedFileError(f"{path}: damaged: says format version {version}, has the content of {VERSION}")
        raise NewerFileError(f"{path}: written in format version {version}; this code reads {VERSION}")
    if not is_whole:
        raise DamagedFileError(f"{path}: damaged: its content does not have the sha256 that was written with it")
    try:
        return Container(tensors, json.loads(text))
    except (ValueError, RecursionError):
        raise DamagedFileError(f"{path}: damaged: its state is not JSON") from None


def peek_state(path: Path) -> dict[str, Any]:
    """Returns what a file's header says, without verifying its content; empty for what cannot be read."""
    try:
        with _opened(path, whole=False) as file:
            return json.loads((file.metadata() or {}).get("state", "{}"))
    except (WeightsError, ValueError, RecursionError):
        return {}


def is_container(path: Path) -> bool:
    """Whether the file says that it is a checkpoint of this project; its content is not verified."""
    with _opened(path, whole=False) as file:
        return (file.metadata() or {}).get("format") == FORMAT
