"""Protocol Buffers: the examples of its documentation, and what no message is."""

import pytest

from util.errors import DamagedFileError
from util.protobuf import Message, read_fields, read_varint

# (bytes, number); 150 is the example of https://protobuf.dev/programming-guides/encoding, the last is -1 of an int64
NUMBERS = [(b"\0", 0), (b"\x7f", 127), (b"\x96\x01", 150), (b"\xff" * 9 + b"\x01", 2**64 - 1)]


@pytest.mark.parametrize(("data", "number"), NUMBERS)
def test_a_number_and_where_the_next_thing_begins(data: bytes, number: int) -> None:
    assert read_varint(memoryview(b"\xff" + data + b"\xff"), 1) == (number, 1 + len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9, b"\x80" * 10 + b"\0"])
def test_a_number_without_an_end_is_damage(data: bytes) -> None:
    with pytest.raises(DamagedFileError, match="a number without an end"):
        read_varint(memoryview(data), 0)


def test_fields_come_in_their_order_and_repeat() -> None:
    """The documentation's examples: field 1 is 150, field 2 "testing", field 3 a message whose field 1 is 150."""
    one, two, three = b"\x08\x96\x01", b"\x12\x07testing", b"\x1a\x03\x08\x96\x01"
    message = memoryview(one + two + three + one)
    assert list(read_fields(message)) == [(1, 150), (2, b"testing"), (3, one), (1, 150)]
    inner = list(read_fields(message))[2][1]
    assert isinstance(inner, memoryview)
    assert list(read_fields(inner)) == [(1, 150)]
    assert list(read_fields(memoryview(b""))) == []


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"\x12\x08testing", "a field of 8 bytes where 7 are left"),
        (b"\x08", "a number without an end"),
        (b"\0\0", "field 0 of kind 0"),
        (b"\x0d\0\0\0\0", "field 1 of kind 5"),
        (b"\x0b\x0c", "field 1 of kind 3"),
    ],
)
def test_what_is_no_message_of_these_kinds_is_damage(message: bytes, what: str) -> None:
    with pytest.raises(DamagedFileError, match=what):
        list(read_fields(memoryview(message)))


def test_a_message_has_its_fields_in_the_form_that_is_asked_for() -> None:
    minus_one = b"\x08" + b"\xff" * 9 + b"\x01"
    packed, single = b"\x12\x03\x01\xac\x02", b"\x10\x05"
    real, eight, name = b"\x1d\x00\x00\x20\x40", b"\x21" + bytes(8), b"\x2a\x02\xc3\xa9"
    inner = b"\x32\x02\x08\x07"
    message = Message(memoryview(minus_one + packed + single + real + eight + name + inner + inner))
    assert message.integer(1) == -1
    assert message.integers(2) == [1, 300, 5]
    assert message.real(3) == 2.5
    assert message.text(5) == "é"
    assert [within.integer(1) for within in message.messages(6)] == [7, 7]
    assert message.integer(9, default=4) == 4
    assert (4 in message, 9 in message) == (True, False)
    no_text = Message(memoryview(b"\x0a\1\xff"))
    for ask in (
        lambda: message.integer(5), lambda: message.data(1), lambda: message.real(5), lambda: message.data(9),
        lambda: message.integer(9), lambda: message.message(5), lambda: no_text.text(1),
    ):  # fmt: skip
        with pytest.raises(DamagedFileError):
            ask()
    with pytest.raises(DamagedFileError, match="a field of 4 bytes where 3 are left"):
        Message(memoryview(real[:-1]))


def test_numbers_of_fixed_length_end_within_the_message() -> None:
    assert [value for _, value in read_fields(memoryview(b"\x0d\1\2\3\4"), fixed=True)] == [b"\1\2\3\4"]
    with pytest.raises(DamagedFileError, match="a field of 8 bytes where 4 are left"):
        list(read_fields(memoryview(b"\x09\1\2\3\4"), fixed=True))
