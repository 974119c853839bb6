"""The parts of Protocol Buffers that weights files use: numbers of variable length, and the fields of a message.

A field is a key, its number times 8 plus its kind, and a value (https://protobuf.dev/programming-guides/encoding). Only
the kinds 0 (a number) and 2 (bytes after their length) are read; the files of weights have no others.
"""

from collections.abc import Iterator

from util.weights.container import DamagedFileError

MAX_VARINT_BYTES = 10  # 64 bits, 7 a byte
_VARINT, _BYTES = 0, 2


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Returns the number at `position`, without a sign, and where the next thing begins.

    One that has not ended after 10 bytes, or at the end of the data, is a DamagedFileError.
    """
    number = 0
    for i, byte in enumerate(data[position : position + MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return number, position + i + 1
    raise DamagedFileError("holds a number without an end")


def read_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields the fields of a message in its order: number, and an integer or bytes.

    Messages within are bytes, so nothing nests. What is no such field, or beyond the end, is a DamagedFileError.
    """
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        number, kind = key >> 3, key & 7
        if kind not in (_VARINT, _BYTES) or number == 0:
            raise DamagedFileError(f"holds field {number} of kind {kind}, expected a number or bytes")
        value, position = read_varint(message, position)
        if kind == _VARINT:
            yield number, value
            continue
        if value > len(message) - position:
            raise DamagedFileError(f"holds a field of {value} bytes where {len(message) - position} are left")
        yield number, message[position : position + value]
        position += value
