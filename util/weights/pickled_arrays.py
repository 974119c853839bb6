"""What numpy's arrays, and the plain objects that stand beside weights, ask for in a pickle: one exact list.

numpy pickles an array as a call of `_reconstruct`, which makes an empty one, and a state of five: version, shape, type,
whether it lies by columns, bytes. None of numpy's functions is called for that: the state is checked and kept.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from util.errors import DamagedFileError, UntrustedFileError
from util.weights.pickles import Global, Inert, LongText
from util.weights.stored import DTYPES, StoredTensor, check_shape

_DTYPES = {
    "b1": "BOOL", "u1": "U8", "i1": "I8", "u2": "U16", "i2": "I16", "u4": "U32", "i4": "I32", "u8": "U64", "i8": "I64",
    "f2": "F16", "f4": "F32", "f8": "F64",
}  # fmt: skip


class PickledDtype:
    """Stands for numpy.dtype."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        if not arguments:
            raise DamagedFileError("its pickle has a type of elements without a name")
        self.name, self.big_endian = _as_text(arguments[0]), False

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2:
            raise DamagedFileError("its pickle has a type of elements without a byte order")
        self.big_endian = _as_text(state[1]) == ">"


class PickledArray:
    """Stands for numpy.ndarray, and for the function that makes an empty one, to which `set_state` brings values."""

    tensor: StoredTensor | None = None

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        pass

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], PickledDtype):
            raise DamagedFileError("its pickle has an array whose state is not numpy's")
        _, shape, dtype, by_column, data = state
        if dtype.name not in _DTYPES:
            kind = f"an array of elements of type {str(dtype.name)[:20]!r}"
            if dtype.name in ("O", "O4", "O8"):
                raise UntrustedFileError(f"holds {kind}, which can be any Python object: refused")
            raise DamagedFileError(f"holds {kind}, expected numbers")
        check_shape(shape)
        kind = _DTYPES[dtype.name]
        if isinstance(data, LongText):
            num_bytes = math.prod(shape) * DTYPES[kind].itemsize
            read: Callable[[], bytes | memoryview] = partial(_decode, data, num_bytes)
        elif isinstance(data, bytes | memoryview):
            num_bytes, read = len(data), partial(_same, data)
        else:
            raise DamagedFileError("its pickle has an array whose values are no bytes")
        self.tensor = StoredTensor(
            read, num_bytes, kind, shape, order="F" if by_column else "C", big_endian=dtype.big_endian
        )


def _same(data: bytes | memoryview) -> bytes | memoryview:
    return data


def _decode(text: LongText, num_bytes: int) -> bytes:
    """Returns the bytes that a text stands for, if they are as many as they should be.

    A byte is a character, and that one or two bytes of the file: the first test keeps lies about the size cheap.
    """
    if len(text.data) // 2 <= num_bytes <= len(text.data):
        try:
            data = text.encode_latin1()
        except UnicodeError:
            raise DamagedFileError("its pickle has an array whose bytes are a text other than latin-1") from None
        if len(data) == num_bytes:
            return data
    raise DamagedFileError(f"its pickle has an array that needs {num_bytes} bytes, and has others")


def _as_text(value: Any) -> str | None:
    """Returns text that Python 2 (bytes here) or 3 wrote, None for anything else."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    return value if isinstance(value, str) else None


def _empty(kind: Callable[[], Any]) -> Callable[[tuple[Any, ...]], Any]:
    def call(arguments: tuple[Any, ...]) -> Any:
        if arguments:
            raise DamagedFileError(f"its pickle makes a {kind.__name__} from arguments")
        return kind()

    return call


def _same_tuple(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):  # a list would be copied, each time
        raise DamagedFileError("its pickle makes a tuple of something else than one")
    return arguments[0]


def _encode_latin1(arguments: tuple[Any, ...]) -> bytes | LongText:
    """Stands for _codecs.encode, with which protocol 2 writes bytes; a long text is encoded when it is needed."""
    if len(arguments) != 2 or arguments[1] != "latin1" or not isinstance(arguments[0], str | LongText):
        raise DamagedFileError("its pickle has bytes in another encoding than latin1")
    text = arguments[0]
    return text if isinstance(text, LongText) else text.encode("latin1")


def _inert(arguments: tuple[Any, ...]) -> Inert:
    return Inert()


PLAIN_GLOBALS = {
    (module, name): Global(name, call)
    for modules, name, call in (
        (("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct", PickledArray),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "scalar", _inert),
        (("numpy",), "ndarray", PickledArray),
        (("numpy",), "dtype", PickledDtype),
        (("_codecs",), "encode", _encode_latin1),
        (("builtins", "__builtin__"), "bytes", _empty(bytes)),
        (("builtins", "__builtin__"), "tuple", _same_tuple),
        (("collections",), "OrderedDict", _empty(dict)),
        (("argparse",), "Namespace", _empty(Inert)),
    )
    for module in modules
}
