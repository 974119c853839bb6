"""Weights files in the real formats of other projects, written without those projects.

`wrap` is the entry under which the tensors lie (none: at the top), `beside` what stands next to it: anything that a
pickle can hold, arrays and dicts of arrays being written as tensors. Golden files written by the projects themselves
are compared with these in tests/util/weights/test_formats.py.
"""

import binascii
import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

FloatType = Literal["F16", "BF16", "F32", "F64"]
Tensors = Mapping[str, np.ndarray]

_NUMPY_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def encode(array: np.ndarray, floats: FloatType) -> tuple[str, bytes]:
    """Returns an array's element type, in safetensors' words, and its bytes; floating point is written as `floats`."""
    if array.dtype.kind != "f":
        kind = {"i": "I", "u": "U", "b": "BOOL"}[array.dtype.kind]
        return kind if kind == "BOOL" else f"{kind}{8 * array.dtype.itemsize}", array.tobytes()
    if floats == "BF16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        return floats, (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")).tobytes()
    return floats, array.astype(_NUMPY_FLOATS[floats]).tobytes()


def _wrapped(tensors: Tensors, wrap: str | None, beside: Mapping[str, Any] | None) -> dict[str, Any]:
    return {**({wrap: OrderedDict(tensors)} if wrap else tensors), **(beside or {})}


def write_safetensors(
    path: Path, tensors: Tensors, *, floats: FloatType = "F32", metadata: Mapping[str, str] | None = None
) -> None:
    """Writes what safetensors' save_file writes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    content = b""
    for name, array in tensors.items():
        kind, data = encode(array, floats)
        place = [len(content), len(content) + len(data)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
        content += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


class Name:
    """A name in a pickle, which is written without being looked up."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        """The pickler takes only what can be called for a function."""


class NamePickler(pickle._Pickler):
    """Python's own pickler, which writes `Name`s and takes `reducers` for chosen types."""

    def __init__(self, file: io.BytesIO, protocol: int, reducers: Mapping[type, Callable[[Any], Any]]) -> None:
        super().__init__(file, protocol)
        self.reducers = reducers

    def reducer_override(self, obj: Any) -> Any:
        return self.reducers[type(obj)](obj) if type(obj) in self.reducers else NotImplemented

    def save_name(self, obj: Name) -> None:
        self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]

    dispatch = {**pickle._Pickler.dispatch, Name: save_name}  # type: ignore[dict-item]  # noqa: RUF012


class _Storage:
    def __init__(self, key: str, kind: str, size: int) -> None:
        self.identity = ("storage", _STORAGE_NAMES.setdefault(kind, Name("torch", kind)), key, "cpu", size)


_STORAGE_NAMES: dict[str, Name] = {}
_REBUILD, _ORDERED = Name("torch._utils", "_rebuild_tensor_v2"), OrderedDict[str, Any]()
_STORAGES = {
    "F16": "HalfStorage", "BF16": "BFloat16Storage", "F32": "FloatStorage", "F64": "DoubleStorage",
    "I64": "LongStorage", "I32": "IntStorage", "I16": "ShortStorage", "I8": "CharStorage", "U8": "ByteStorage",
    "BOOL": "BoolStorage",
}  # fmt: skip


class _TorchPickler(NamePickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.identity if isinstance(obj, _Storage) else None


def write_torch(
    path: Path,
    tensors: Tensors,
    *,
    wrap: str | None = None,
    beside: Mapping[str, Any] | None = None,
    floats: FloatType = "F32",
) -> None:
    """Writes what torch.save writes since PyTorch 1.6."""
    storages: list[bytes] = []

    def reduce_array(array: np.ndarray) -> Any:
        kind, data = encode(array, floats)
        storages.append(data)
        strides = np.cumprod([1, *array.shape[:0:-1]])[::-1].tolist() if array.ndim else []
        storage = _Storage(str(len(storages) - 1), _STORAGES[kind], array.size)
        return _REBUILD, (storage, 0, array.shape, tuple(strides), False, OrderedDict())

    stream = io.BytesIO()
    _TorchPickler(stream, 2, {np.ndarray: reduce_array}).dump(_wrapped(tensors, wrap, beside))
    entries = {"data.pkl": stream.getvalue(), "byteorder": b"little"}
    entries |= {f"data/{i}": data for i, data in enumerate(storages)}
    write_zip(path, {**entries, "version": b"3\n"})


def write_zip(path: Path, entries: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> None:
    """Writes the entries into one folder, as PyTorch does."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data, compression)


def write_paddle(
    path: Path,
    tensors: Tensors,
    *,
    wrap: str | None = None,
    beside: Mapping[str, Any] | None = None,
    protocol: Literal[2, 3, 4] = 4,
) -> None:
    """Writes what paddle.save writes: a state dict itself, or one within a dict, where a tensor has its name."""
    saved = _wrapped(tensors, wrap, beside)
    if wrap:
        saved = {key: _named(value) if isinstance(value, Mapping) else value for key, value in saved.items()}
    else:
        saved["StructuredToParameterName@@"] = {name: f"{name}.w_0" for name in tensors}
    stream = io.BytesIO()
    NamePickler(stream, protocol, {_Named: lambda value: (tuple, (value.pair,))}).dump(saved)
    path.write_bytes(stream.getvalue())


class _Named:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self.pair = (f"{name}.w_0", array)


def _named(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _Named(name, array) if isinstance(array, np.ndarray) else array for name, array in value.items()}


_MINDSPORE = {
    "F16": "Float16", "BF16": "BFloat16", "F32": "Float32", "F64": "Float64", "I64": "Int64", "I32": "Int32",
    "I16": "Int16", "I8": "Int8", "U8": "UInt8", "BOOL": "Bool",
}  # fmt: skip


def write_mindspore(
    path: Path,
    tensors: Tensors,
    *,
    floats: FloatType = "F32",
    slice_bytes: int = 512 << 20,
    crc: bool = False,
) -> None:
    """Writes what MindSpore's save_checkpoint writes; tensors above `slice_bytes` are cut."""
    content = b""
    for name, array in tensors.items():
        kind, data = encode(array, floats)
        for start in range(0, max(len(data), 1), slice_bytes):
            part = data[start : start + slice_bytes]
            content += mindspore_value(name, array.shape, _MINDSPORE[kind], part)
    if crc:
        content += b"crc_num" + binascii.crc32(content).to_bytes(10, "big")
    path.write_bytes(content)


def mindspore_value(tag: str, dims: tuple[int, ...], kind: str, content: bytes) -> bytes:
    """A Checkpoint message with one value."""
    tensor = b"".join(b"\x08" + varint(n) for n in dims) + field(2, kind.encode()) + field(3, content)
    return field(1, field(1, tag.encode()) + field(2, tensor))


def field(number: int, content: bytes) -> bytes:
    """A field of bytes in a message of Protocol Buffers."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    result = b""
    while number > 0x7F:
        result += bytes([number & 0x7F | 0x80])
        number >>= 7
    return result + bytes([number])
