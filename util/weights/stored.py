"""A tensor as a file stores it: where its bytes are and how they are laid out, checked before anything is read.

Every reader of a foreign format hands out these; `to_numpy` makes arrays of those that are wanted, one by one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from util.errors import DamagedFileError

MAX_DIMENSIONS = 32
MAX_ELEMENTS = 2**48  # numpy can still count the bytes of that

# safetensors' names of element types; BF16 is read as the bits that it is, and widened by `to_numpy`
DTYPES = {
    "BOOL": np.dtype("?"), "U8": np.dtype("u1"), "I8": np.dtype("i1"), "U16": np.dtype("<u2"), "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"), "I32": np.dtype("<i4"), "U64": np.dtype("<u8"), "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """`shape` elements of `dtype` (a key of DTYPES) in the bytes that `read` returns, of which there are `num_bytes`.

    strides: in elements, from element `offset` on (PyTorch's views); none for elements without gaps, in `order`.
    The constructor raises a DamagedFileError unless all this lies within the bytes.
    """

    read: Callable[[], bytes | memoryview]
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]
    order: Literal["C", "F"] = "C"
    strides: tuple[int, ...] | None = None
    offset: int = 0
    big_endian: bool = False

    def __post_init__(self) -> None:
        check_shape(self.shape)
        if math.prod(n or 1 for n in self.shape) >= MAX_ELEMENTS:  # numpy refuses them beside a zero, too
            raise DamagedFileError(f"shape {list(self.shape)} has too many elements")
        available = self.num_bytes // self.itemsize
        if self.strides is None:
            if self.offset or self.num_bytes != self.size * self.itemsize:
                raise DamagedFileError(
                    f"{list(self.shape)} elements of type {self.dtype} need {self.size * self.itemsize} bytes, "
                    f"got {self.num_bytes}"
                )
            return
        check_shape(self.strides)
        if len(self.strides) != len(self.shape) or type(self.offset) is not int or self.offset < 0:
            raise DamagedFileError(f"shape {list(self.shape)} with strides {list(self.strides)}, or its offset")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        # a view of more elements than there are (stride 0) would take memory that the file does not
        if self.size and (last >= available or self.size > available):
            raise DamagedFileError(
                f"shape {list(self.shape)} with strides {list(self.strides)} from element {self.offset} on does not "
                f"lie within the {available} elements stored"
            )

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    def to_numpy(self) -> np.ndarray:
        """Returns an array of its own memory: floating point as float32, anything else as it is."""
        if self.size == 0:
            return np.zeros(self.shape, np.float32 if self.is_float else DTYPES[self.dtype])
        dtype = DTYPES[self.dtype].newbyteorder(">") if self.big_endian else DTYPES[self.dtype]
        flat = np.frombuffer(self.read(), dtype)
        if self.strides is None:
            array = flat.reshape(self.shape, order=self.order)
        else:
            # the step of a single element means nothing, and may be any number
            steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(self.shape, self.strides, strict=True)]
            array = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False)
        if self.dtype == "BF16":
            bits = array.astype(np.uint32, order="C")
            bits <<= 16
            return bits.view(np.float32)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is judged as that
            return array.astype(np.float32 if self.is_float else DTYPES[self.dtype], order="C")

    @property
    def is_float(self) -> bool:
        return self.dtype in ("F16", "BF16", "F32", "F64")


def check_shape(shape: Sequence[int]) -> None:
    """Raises a DamagedFileError unless all are sizes that an array can have.

    What they are instead is not printed: a value off a pickle can be nested so that its text has no end.
    """
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        raise DamagedFileError(f"has a shape or strides that are no tuple of at most {MAX_DIMENSIONS} numbers")
    if not all(type(n) is int and 0 <= n < MAX_ELEMENTS for n in shape):
        raise DamagedFileError(f"has a shape or strides with something else than numbers from 0 to {MAX_ELEMENTS}")
