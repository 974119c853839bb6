"""Pickles of weights, read by a machine that knows data and nothing else.

A pickle is a program: its opcodes may name any function and have it called. Here no name is ever looked up in a module.
A name is a key of a table of stand-ins (`Globals`), functions of this project that keep what they are given; any other
name is refused, and so is every opcode that could find an object by another way: extension codes, INST, OBJ,
NEWOBJ_EX, persistent ids of text, buffers outside the file. Python's own unpickler is not used.

Nothing is allocated by a number that the file claims: bytes and long texts stay views of the file, there are at most
MAX_OPCODES steps, integers have at most MAX_INT_BYTES bytes, and only plain values can be keys of a dict. No function
calls itself, however deep the nesting. Containers are shared, not expanded, so that a list which holds itself
a billion times costs nothing until somebody walks through it, and nobody does.

`paddle.save` writes protocols 2 to 4, `torch.save` protocol 2 unless told otherwise. What protocol 0 writes as lines of
text is passed over, so that a name that follows is found and refused; what protocol 5 adds is refused or damaged.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from util.errors import DamagedFileError, UntrustedFileError

MAX_OPCODES = 400_000  # a checkpoint of CvT-W24 with average and optimizer has some 140,000
MAX_INT_BYTES = 9  # 64 bits and a sign; longer ones could be made to collide as keys of a dict
MAX_LINE = 200
LONG_TEXT = 256  # shorter texts and bytes are copied, longer ones stay in the file

Call = Callable[[tuple[Any, ...]], Any]


@dataclass(frozen=True)
class Global:
    """A name that a pickle may use; `call` stands in for calling it, `value` says what it means to its reader."""

    name: str
    call: Call | None = None
    value: Any = None


Globals = Mapping[tuple[str, str], Global]


class Inert:
    """An object that was allowed and is of no interest: settings beside the weights, a number of numpy's."""


@dataclass(frozen=True, slots=True, eq=False)
class LongText:
    """A text too long to be a name. In protocol 2 the bytes of an array are such texts."""

    data: memoryview

    def encode_latin1(self) -> bytes:
        """The bytes that the text stands for; ValueError if it stands for none."""
        return str(self.data, "utf-8", "surrogatepass").encode("latin1")


class PickleMachine:
    """Runs one pickle.

    `persistent_load` gets the tuples of BINPERSID (PyTorch's storages); without it they are refused. `how_to_convert`
    ends the refusal of a name.
    """

    def __init__(
        self,
        data: memoryview,
        *,
        allowed: Globals,
        how_to_convert: str,
        persistent_load: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data, self.position = data, 0
        self.allowed, self.how_to_convert, self.persistent_load = allowed, how_to_convert, persistent_load
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int | str, Any] = {}

    def run(self) -> Any:
        """Returns the pickled value. DamagedFileError, or UntrustedFileError for what is refused."""
        try:
            for _ in range(MAX_OPCODES):
                opcode = self.data[self.position]
                self.position += 1
                if opcode == ord("."):
                    return self.stack[-1]
                action = _ACTIONS.get(opcode)
                if action is None:
                    self.refuse_opcode(opcode)
                action(self)
        except (LookupError, TypeError, OverflowError, struct.error, UnicodeError) as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())[:100]
            raise DamagedFileError(f"its pickle is damaged near byte {self.position}: {reason}") from None
        raise DamagedFileError(f"its pickle has more than {MAX_OPCODES} steps, which no weights need")

    def take(self, size: int) -> memoryview:
        """Returns the next `size` bytes."""
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise DamagedFileError(f"its pickle ends within {size} bytes that begin at byte {start}")
        return self.data[start : self.position]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """Returns the text up to the next line feed."""
        text = bytes(self.data[self.position : self.position + MAX_LINE])
        if b"\n" not in text:
            raise DamagedFileError(f"its pickle has no name at byte {self.position}")
        text = text[: text.index(b"\n")]
        self.position += len(text) + 1
        return text.decode("utf-8")

    def refuse(self, what: str) -> NoReturn:
        raise UntrustedFileError(f"asks for {what}, which weights do not need: refused; {self.how_to_convert}")

    def refuse_opcode(self, opcode: int) -> NoReturn:
        if opcode == ord("i"):  # INST: both lines of a name
            self.find(self.line(), self.line())
        if opcode in _OTHER_WAYS:
            self.refuse(_OTHER_WAYS[opcode])
        raise DamagedFileError(f"its pickle has opcode {opcode} near byte {self.position}, which no weights need")

    def find(self, module: str, name: str) -> Global:
        found = self.allowed.get((module, name))
        if found is None:
            self.refuse(repr(f"{module}.{name}"[:MAX_LINE]))
        return found

    # what the opcodes do, in the words of `pickletools`

    def proto(self) -> None:
        if (protocol := self.number(1)) > 5:
            raise DamagedFileError(f"its pickle is of protocol {protocol}, expected at most 5")

    def frame(self) -> None:
        if (size := self.number(8)) > len(self.data) - self.position:
            raise DamagedFileError(f"its pickle has a frame of {size} bytes near byte {self.position}, beyond its end")

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def push(self, value: Any) -> None:
        """Puts a value on the stack that is the current one now, after the arguments were taken off."""
        self.stack.append(value)

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def pass_over(self) -> None:
        self.line()
        self.push(Inert())

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise LookupError("stack is empty")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append(self) -> None:
        self.extend([self.stack.pop()])

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("items for something that is no list")
        self.stack[-1].extend(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise TypeError("named items for something that is no dict")
        if len(items) % 2:
            raise TypeError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # tuples are left out: hashing deeply nested ones can exhaust the stack of the process
            if not isinstance(key, str | int | float | bytes | None):
                raise TypeError(f"a key of type {type(key).__name__}")
            self.stack[-1][key] = value

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def get(self, width: int) -> None:
        self.stack.append(self.memo[self.number(width)])

    def put(self, width: int) -> None:
        self.memo[self.number(width)] = self.stack[-1]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        self.stack.append(self.find(module, name))

    def call(self) -> None:
        """REDUCE and NEWOBJ: what makes an object from arguments is the same to a stand-in."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or function.call is None or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is no function")
        self.stack.append(function.call(arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if hasattr(target, "set_state"):
            target.set_state(state)
        elif not isinstance(target, dict | Inert):  # of those, attributes beside the items are of no interest
            raise TypeError(f"a state for {type(target).__name__}")

    def persistent(self) -> None:
        if self.persistent_load is None:
            self.refuse("an object outside of its pickle")
        self.stack.append(self.persistent_load(self.stack.pop()))


Action = Callable[[PickleMachine], None]


def _text(data: memoryview) -> str | LongText:
    return LongText(data) if len(data) > LONG_TEXT else str(data, "utf-8", "surrogatepass")


def _bytes(data: memoryview) -> bytes | memoryview:
    return data if len(data) > LONG_TEXT else bytes(data)


def _integer(data: memoryview) -> int:
    if len(data) > MAX_INT_BYTES:
        raise DamagedFileError(f"its pickle has an integer of {len(data)} bytes, expected at most {MAX_INT_BYTES}")
    return int.from_bytes(data, "little", signed=True)


def _constant(value: Any) -> Action:
    return lambda machine: machine.push(value)


def _number(form: str) -> Action:
    return lambda machine: machine.push(struct.unpack(form, machine.take(struct.calcsize(form)))[0])


def _sized(kind: Callable[[memoryview], Any], width: int) -> Action:
    """What has its size in front of it, in `width` bytes."""
    return lambda machine: machine.push(kind(machine.take(machine.number(width))))


_ACTIONS: dict[int, Action] = {
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord(")"): _constant(()),
    ord("J"): _number("<i"),
    ord("K"): _number("<B"),
    ord("M"): _number("<H"),
    ord("G"): _number(">d"),
    0x8A: _sized(_integer, 1),
    0x8B: _sized(_integer, 4),
    ord("X"): _sized(_text, 4),
    0x8C: _sized(_text, 1),
    0x8D: _sized(_text, 8),
    ord("B"): _sized(_bytes, 4),
    ord("C"): _sized(_bytes, 1),
    0x8E: _sized(_bytes, 8),
    ord("T"): _sized(_bytes, 4),  # Python 2's texts, in which it kept bytes as well
    ord("U"): _sized(_bytes, 1),
    0x80: PickleMachine.proto,
    0x95: PickleMachine.frame,
    ord("("): PickleMachine.mark,
    ord("0"): PickleMachine.pop,
    ord("1"): lambda m: m.pop_mark().clear(),
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("]"): lambda m: m.push([]),
    ord("}"): lambda m: m.push({}),
    0x8F: lambda m: m.push([]),  # a set, kept as a list: its items may be of any kind
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("t"): lambda m: m.push(tuple(m.pop_mark())),
    0x91: lambda m: m.push(tuple(m.pop_mark())),  # a frozen set
    ord("l"): lambda m: m.push(m.pop_mark()),
    ord("d"): PickleMachine.make_dict,
    ord("a"): PickleMachine.append,
    ord("e"): lambda m: m.extend(m.pop_mark()),
    0x90: lambda m: m.extend(m.pop_mark()),
    ord("s"): PickleMachine.set_item,
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    ord("h"): lambda m: m.get(1),
    ord("j"): lambda m: m.get(4),
    ord("q"): lambda m: m.put(1),
    ord("r"): lambda m: m.put(4),
    0x94: PickleMachine.memoize,
    ord("p"): lambda m: m.memo.update({m.line(): m.stack[-1]}),
    ord("g"): lambda m: m.push(m.memo[m.line()]),
    **dict.fromkeys(b"FILSV", PickleMachine.pass_over),
    ord("c"): lambda m: m.push(m.find(m.line(), m.line())),
    0x93: PickleMachine.stack_global,
    ord("R"): PickleMachine.call,
    0x81: PickleMachine.call,
    ord("b"): PickleMachine.build,
    ord("Q"): PickleMachine.persistent,
}

_OTHER_WAYS = {
    0x82: "an extension code of Python", 0x83: "an extension code of Python", 0x84: "an extension code of Python",
    ord("o"): "an object by a way of old Pythons", 0x92: "an object with named arguments",
    ord("P"): "an object outside of its pickle", 0x97: "a buffer outside of its pickle",
}  # fmt: skip
