"""A self-verifying file: safetensors with the rest of the state as JSON in the header, and a sha256 over both.

safetensors alone notices truncation and lying headers, but loads a flipped bit silently; the hash closes that gap.
Writing goes to a file beside, which is synced, read back, verified and only then renamed, so that a crash leaves the
old file or the new one. Imports no paddle.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from util.errors import MissingInputError, NonFiniteLossError, SaveError, WeightsError

FORMAT = "paddle-cvt-checkpoint"
VERSION = 1


class DamagedFileError(WeightsError):
    """The file is not what was written."""


@dataclass(frozen=True)
class Container:
    """What a file holds: tensors by name, and the state."""

    tensors: dict[str, np.ndarray]
    state: dict[str, Any]


def _digest(tensors: Mapping[str, np.ndarray], state: str) -> str:
    sha = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = np.asarray(tensors[name], order="C")
        sha.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        sha.update(tensor.data if tensor.ndim else tensor.tobytes())
    return sha.hexdigest()


def write_container(path: Path, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Writes `path`, or leaves what was there. A full disk or a device error is a SaveError.

    A tensor with NaN or infinite values is a NonFiniteLossError: such a checkpoint could only spread the damage.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise NonFiniteLossError(f"{path}: not saved: {name} has NaN or infinite values")
    text = json.dumps(state, sort_keys=True)
    metadata = {"format": FORMAT, "version": str(VERSION), "state": text, "sha256": _digest(tensors, text)}
    beside = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        save_file({k: np.asarray(v, order="C") for k, v in tensors.items()}, beside, metadata=metadata)
        os.chmod(beside, 0o666 & ~_umask())  # safetensors writes 0600
        _sync(beside)
        read_container(beside)
        os.replace(beside, path)
    except (OSError, SafetensorError, DamagedFileError) as error:
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise SaveError(
            f"{path}: not saved ({size / 1e6:.1f} MB): {error}; earlier checkpoints are untouched"
        ) from None
    finally:  # also when interrupted; after the renaming there is nothing to remove
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the file is whole and in place; some file systems cannot sync a folder
        _sync(path.parent)


def copy_container(source: Path, path: Path) -> None:
    """Copies a file that was just written, and so verified, to `path`, or leaves what was there. Errors as above."""
    beside = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        shutil.copy(source, beside)
        _sync(beside)
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise SaveError(f"{path}: not saved: {error}; earlier checkpoints are untouched") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        if not path.is_file():
            raise MissingInputError(f"{path}: no such file" if not path.exists() else f"{path}: is not a file")
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise DamagedFileError(f"{path}: damaged, or not a safetensors file: {error}") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_container(path: Path) -> Container:
    """Returns a verified file's content. Damage of any kind is a DamagedFileError."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise WeightsError(f"{path}: a safetensors file, but not a checkpoint of this project")
        if metadata.get("version") != str(VERSION):
            raise WeightsError(
                f"{path}: written in format version {metadata.get('version')}; this code reads {VERSION}"
            )
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (TypeError, ValueError) as error:
            raise DamagedFileError(f"{path}: damaged: {error}") from None
    text = metadata.get("state", "")
    if _digest(tensors, text) != metadata.get("sha256"):
        raise DamagedFileError(f"{path}: damaged: its content does not have the sha256 that was written with it")
    try:
        return Container(tensors, json.loads(text))
    except (ValueError, RecursionError):
        raise DamagedFileError(f"{path}: damaged: its state is not JSON") from None


def peek_state(path: Path) -> dict[str, Any]:
    """Returns what a file's header says, without verifying its content; empty for what cannot be read."""
    try:
        with _opened(path) as file:
            return json.loads((file.metadata() or {}).get("state", "{}"))
    except (WeightsError, ValueError, RecursionError):
        return {}


def is_container(path: Path) -> bool:
    """Whether the file says that it is a checkpoint of this project; its content is not verified."""
    with _opened(path) as file:
        return (file.metadata() or {}).get("format") == FORMAT
