"""Pickles of lists, dicts, numbers, texts and matrices of bytes, read without running anything that they ask for.

A pickle can name any function and have it called while it is read. Here the few names that a numpy array needs stand
for classes of this file, which only keep what they are given; every other name is refused. Imports no paddle.
"""

import io
import pickle
from typing import Any

import numpy as np

from util.errors import DataError, UntrustedFileError


def read_pickle(data: bytes, source: str) -> dict[str | None, Any]:
    """Returns a pickled dict: keys as text, matrices of bytes as uint8 arrays, all else as it was written.

    A name that is not numpy's is an UntrustedFileError; damage, or an array of anything but bytes, a DataError.
    """
    try:
        value = _Unpickler(data, source).load()
    except UntrustedFileError:
        raise
    except _DAMAGE as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise DataError(f"{source}: damaged, or not a pickle: {reason}") from None
    if not isinstance(value, dict):
        raise DataError(f"{source}: expected a pickled dict, got {type(value).__name__}")
    return {
        to_text(key): entry.to_numpy(source) if isinstance(entry, _Array) else entry for key, entry in value.items()
    }


def to_text(value: Any) -> str | None:
    """Returns text that Python 2 (bytes here) or 3 wrote, None for anything else."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError,
    RecursionError,
)  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Finds nothing but the stand-ins."""

    def __init__(self, data: bytes, source: str) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.source = source

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise UntrustedFileError(
                f"{self.source} asks for {f'{module}.{name}'!r}, which an array of pixels does not need: refused; "
                "download it again, from a source that you trust"
            )
        return _STAND_INS[module, name]


class _Dtype:
    """Stands for numpy.dtype: keeps its name."""

    name: str | None = None

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        self.name = to_text(name)

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields mean nothing for single bytes."""


class _Array:
    """Stands for numpy.ndarray, and for the function that makes an empty one, to which `__setstate__` brings values."""

    state: Any = None

    def __init__(self, subtype: Any, shape: Any, typecode: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_numpy(self, source: str) -> np.ndarray:
        """Returns a matrix of bytes; a DataError when it is anything else."""
        state: tuple[Any, ...] = self.state if _length(self.state) == 5 else (None, None, None, None, None)
        _, shape, dtype, by_column, data = state
        is_matrix = _length(shape) == 2 and all(type(n) is int and n >= 0 for n in shape)
        is_bytes = isinstance(dtype, _Dtype) and dtype.name in ("u1", "uint8") and isinstance(data, bytes)
        if not is_matrix or not is_bytes or len(data) != shape[0] * shape[1]:
            raise DataError(f"{source}: holds an array that is not a matrix of bytes")
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_column else "C")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, tuple) else 0


class _Latin1:
    """Stands for _codecs.encode, with which Python 3 writes bytes in the protocol of Python 2."""

    def __new__(cls, text: Any, encoding: Any) -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes in another encoding than latin1")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        """With it, a pickle cannot set attributes of the class."""


class _NoBytes:
    """Stands for bytes, which Python 3 calls without arguments for empty ones in the protocol of Python 2."""

    def __new__(cls) -> Any:
        return b""

    def __setstate__(self, state: Any) -> None:
        """With it, a pickle cannot set attributes of the class."""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _Latin1,
    ("__builtin__", "bytes"): _NoBytes,
    ("builtins", "bytes"): _NoBytes,
}
