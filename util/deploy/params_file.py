"""The structure of a `.pdiparams` file: whether it holds a program's parameters, all of them and nothing else.

The tensors stand one after the other, sorted by name, and without names. Each: uint32 0, uint64 0 (levels of ragged
sequences), uint32 0, int32 length of a TensorDesc, that message, and the values. They are not read: that they are right
only a hash could tell. Paddle Inference computes with what memory happens to hold where parameters are missing.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from util.deploy.program_desc import tensor_type
from util.deploy.program_graph import TensorType
from util.errors import DamagedFileError, WeightsError
from util.protobuf import Message

_HEADER = struct.Struct("<IQIi")
_MAX_DESC = 1024  # bytes; eight axes take a hundred
_SIZES = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "int32": 4, "float32": 4,
          "int64": 8, "float64": 8, "complex64": 8, "complex128": 16}  # fmt: skip


def check_parameters(path: Path, expected: Mapping[str, TensorType]) -> None:
    """Raises a WeightsError unless the file holds tensors of these types and shapes, in the order of their names.

    expected: a program's parameters. No more of the file is read than what stands before each tensor's values.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        for number, name in enumerate(sorted(expected)):
            if file.tell() == size:
                raise WeightsError(f"{path}: ends after {number} of the {len(expected)} parameters of its program")
            try:
                found = _read_type(file)
            except DamagedFileError as error:
                raise WeightsError(f"{path}: damaged, or no parameters: at {name!r}, it {error}") from None
            if found != expected[name]:
                raise WeightsError(
                    f"{path}: has {found} where its program has {name!r}, {expected[name]}: another model's"
                )
            end = file.tell() + _SIZES[found.dtype] * math.prod(side or 0 for side in found.shape)
            if end > size:
                raise WeightsError(f"{path}: is cut off: {name!r} ends at byte {end}, the file at {size}")
            file.seek(end)
        if file.tell() != size:
            raise WeightsError(f"{path}: has {size - file.tell()} bytes behind the parameters of its program")


def _read_type(file: BinaryIO) -> TensorType:
    """Returns the type of the tensor that the file is at, and leaves it where the values begin."""
    start = file.read(_HEADER.size)
    if len(start) < _HEADER.size:
        raise DamagedFileError("ends within a tensor's beginning")
    *versions, length = _HEADER.unpack(start)
    if any(versions) or not 0 < length <= _MAX_DESC:
        raise DamagedFileError("has no tensor there")
    message = file.read(length)
    if len(message) < length:
        raise DamagedFileError("ends within a tensor's type")
    found = tensor_type(Message(memoryview(message)))
    if None in found.shape:
        raise DamagedFileError("has a tensor with an open axis")
    return found
