"""The parts of Protocol Buffers that weights files use: numbers of variable length, and the fields of a message.

A field is a key, its number times 8 plus its kind, and a value (https://protobuf.dev/programming-guides/encoding). The
files of weights have the kinds 0 (a number) and 2 (bytes after their length) alone; programs also have 1 and 5, numbers
of 8 and 4 bytes.
"""

import struct
from collections.abc import Iterator

from util.errors import DamagedFileError

MAX_VARINT_BYTES = 10  # 64 bits, 7 a byte
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # kind: bytes


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


def read_fields(message: memoryview, *, fixed: bool = False) -> Iterator[tuple[int, int | memoryview]]:
    """Yields the fields of a message in its order: number, and an integer or bytes.

    fixed: whether there may be numbers of 8 and 4 bytes, which come as these bytes. Messages within are bytes, so
    nothing nests. What is no such field, or beyond the end, is a DamagedFileError.
    """
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        number, kind = key >> 3, key & 7
        is_fixed = fixed and kind in _FIXED
        if (kind not in (_VARINT, _BYTES) and not is_fixed) or number == 0:
            raise DamagedFileError(f"holds field {number} of kind {kind}, expected a number or bytes")
        value, position = (_FIXED[kind], position) if is_fixed else read_varint(message, position)
        if kind == _VARINT:
            yield number, value
            continue
        if value > len(message) - position:
            raise DamagedFileError(f"holds a field of {value} bytes where {len(message) - position} are left")
        yield number, message[position : position + value]
        position += value


class Message:
    """A message's fields by their numbers, asked for in the form that they must have; else a DamagedFileError.

    Of several with a number, those that ask for one get the last.
    """

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        for number, value in read_fields(data, fixed=True):
            self._fields.setdefault(number, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self._fields

    def integer(self, field: int, default: int | None = None) -> int:
        """Returns a number with its sign, of 64 bits."""
        value = self._fields.get(field, [default])[-1]
        if not isinstance(value, int) or value >= 1 << 64:
            raise DamagedFileError(f"holds no number as field {field}")
        return _signed(value)

    def integers(self, field: int) -> list[int]:
        """Returns numbers that stand in a field each, or one behind the other in one."""
        numbers: list[int] = []
        for value in self._fields.get(field, []):
            position = 0
            while isinstance(value, memoryview) and position < len(value):
                number, position = read_varint(value, position)
                numbers.append(_signed(number))
            if isinstance(value, int):
                numbers.append(_signed(value))
        return numbers

    def real(self, field: int) -> float:
        """Returns a number of float32."""
        value = self.data(field)
        if len(value) != 4:
            raise DamagedFileError(f"holds {len(value)} bytes as field {field}, expected 4")
        return float(struct.unpack("<f", value)[0])

    def data(self, field: int) -> memoryview:
        """Returns bytes."""
        values = self.all_data(field)
        if not values:
            raise DamagedFileError(f"holds no field {field}")
        return values[-1]

    def all_data(self, field: int) -> list[memoryview]:
        """Returns the bytes of each field with this number."""
        values = self._fields.get(field, [])
        found = [value for value in values if isinstance(value, memoryview)]
        if len(found) < len(values):
            raise DamagedFileError(f"holds a number as field {field}")
        return found

    def message(self, field: int) -> "Message":
        """Returns a message within."""
        return Message(self.data(field))

    def messages(self, field: int) -> Iterator["Message"]:
        """Yields the messages within."""
        return map(Message, self.all_data(field))

    def text(self, field: int) -> str:
        """Returns a text."""
        return _decoded(self.data(field))

    def texts(self, field: int) -> list[str]:
        """Returns the texts."""
        return [_decoded(value) for value in self.all_data(field)]


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _decoded(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise DamagedFileError("holds a name that is not UTF-8") from None
