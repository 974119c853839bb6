"""Checkpoints of MindSpore (`.ckpt`): a message of Protocol Buffers (`protobuf`).

    message Checkpoint  { repeated Value value = 1; }
    message Value       { string tag = 1; oneof { TensorProto tensor = 2; MapTensorProto maptensor = 3; } }
    message TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3; }

(mindspore/train/checkpoint.proto.) A tensor of more than 512 MB is cut into consecutive values of the same tag, each
with the dims of the whole. A single number has no dims, or [0]. What `append_dict` adds is a tensor as well; texts
among it are left out. With `crc_check`, 17 bytes follow: "crc_num" and the CRC-32 of what stands before, big endian; it
is verified. Without it, nothing can notice a changed byte within a tensor, or whole values cut off at the end.
"""

import zlib

from util.errors import DamagedFileError, WeightsError
from util.protobuf import read_fields, read_varint
from util.weights.stored import MAX_DIMENSIONS, StoredTensor

ENCRYPTED = bytes.fromhex("d85e3a7f")  # begins each block of a file that was saved with enc_key
MAX_VALUES = 50_000
_CRC, _CRC_SIZE = b"crc_num", 17
_TYPES = {
    "Bool": "BOOL", "UInt8": "U8", "Int8": "I8", "UInt16": "U16", "Int16": "I16", "UInt32": "U32", "Int32": "I32",
    "UInt64": "U64", "Int64": "I64", "Float16": "F16", "BFloat16": "BF16", "Float32": "F32", "Float64": "F64",
}  # fmt: skip


def read_mindspore(data: memoryview) -> dict[str, StoredTensor]:
    """Returns the tensors by tag. Raises a DamagedFileError, or a WeightsError for what is not supported."""
    if len(data) > _CRC_SIZE and data[-_CRC_SIZE:-10] == _CRC:
        written = int.from_bytes(data[-10:], "big")
        data = data[:-_CRC_SIZE]
        if zlib.crc32(data) != written:
            raise DamagedFileError("it does not have the checksum that was written with it")
    parts: dict[str, list[tuple[memoryview, tuple[int, ...], str]]] = {}
    last, count = None, 0
    for number, value in read_fields(data):
        if number != 1 or not isinstance(value, memoryview):
            raise DamagedFileError(f"holds field {number}, expected only field 1 of a MindSpore checkpoint")
        tag, part = _value(value)
        if tag in parts and tag != last:
            raise DamagedFileError(f"holds {tag[:80]!r} twice")
        parts.setdefault(tag, []).append(part)
        last, count = tag, count + 1
        if count > MAX_VALUES:
            raise DamagedFileError(f"holds more than {MAX_VALUES} values, which no weights need")
    return {tag: _join(tag, pieces) for tag, pieces in parts.items() if pieces[0][2] != "str"}


def _value(message: memoryview) -> tuple[str, tuple[memoryview, tuple[int, ...], str]]:
    """Returns a value's tag, and bytes, dims and type of its tensor."""
    tag = tensor = kind = content = None
    for number, value in read_fields(message):
        if number == 1 and tag is None and isinstance(value, memoryview):
            tag = str(value[:300], "utf-8", "replace")
        elif number == 2 and tensor is None and isinstance(value, memoryview):
            tensor = value
        elif number == 3:
            raise WeightsError(f"{str(tag)[:80]!r} is a hash table of MindSpore's, which no model here has")
        else:
            raise DamagedFileError(f"holds a value with field {number}, which MindSpore's have not, or twice")
    if tag is None or tensor is None:
        raise DamagedFileError("holds a value without a tag or without a tensor")
    dims: list[int] = []
    for number, value in read_fields(tensor):
        if number == 1:
            dims += [value] if isinstance(value, int) else _packed(value)
        elif number == 2 and kind is None and isinstance(value, memoryview):
            kind = str(value[:20], "utf-8", "replace")
        elif number == 3 and content is None and isinstance(value, memoryview):
            content = value
        else:
            raise DamagedFileError(
                f"{tag[:80]!r} has a tensor with field {number}, which MindSpore's have not, or twice"
            )
        if len(dims) > MAX_DIMENSIONS:
            raise DamagedFileError(f"{tag[:80]!r} has more than {MAX_DIMENSIONS} dims")
    if kind is None or content is None:
        raise DamagedFileError(f"{tag[:80]!r} has a tensor without a type or without content")
    return tag, (content, tuple(dims), kind)


def _join(tag: str, pieces: list[tuple[memoryview, tuple[int, ...], str]]) -> StoredTensor:
    contents = [piece[0] for piece in pieces]
    if len({piece[1:] for piece in pieces}) > 1:
        raise DamagedFileError(f"the parts of {tag[:80]!r} differ in shape or type")
    _, dims, kind = pieces[0]
    if kind not in _TYPES:
        raise WeightsError(f"{tag[:80]!r} has elements of type {kind!r}, expected one of {', '.join(_TYPES)}")
    num_bytes = sum(map(len, contents))
    if dims == (0,) and num_bytes:
        dims = ()
    try:
        return StoredTensor(lambda: _whole(contents), num_bytes, _TYPES[kind], dims)
    except DamagedFileError as error:
        raise DamagedFileError(f"{tag[:80]!r}: {error}") from None


def _whole(contents: list[memoryview]) -> bytes | memoryview:
    return contents[0] if len(contents) == 1 else b"".join(contents)


def _packed(data: memoryview) -> list[int]:
    numbers: list[int] = []
    position = 0
    while position < len(data) and len(numbers) <= MAX_DIMENSIONS:
        number, position = read_varint(data, position)
        numbers.append(number)
    return numbers


def looks_like_mindspore(data: memoryview) -> bool:
    """Whether a file begins with a value that has a tag."""
    try:
        number, value = next(read_fields(data))
        return number == 1 and isinstance(value, memoryview) and next(read_fields(value))[0] == 1
    except (DamagedFileError, StopIteration):
        return False
