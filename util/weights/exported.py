"""Reading the parameters of an exported program, without Paddle.

A `.pdiparams` file holds the tensors one after the other in the order of Paddle's internal names, and no names; the
manifest says which is which. Each tensor: uint32 0, uint64 0 (levels of ragged sequences), uint32 0, int32 length of a
protobuf message TensorDesc {data_type = 1; repeated int64 dims = 2}, that message, and the values.
"""

import math
import struct
from pathlib import Path

import numpy as np

from util.errors import WeightsError
from util.protobuf import read_fields

_HEADER = struct.Struct("<IQIi")
_FLOAT32 = 5  # of Paddle's VarType, the only type that exports of this project hold


def read_parameters(path: Path, names: tuple[str | None, ...]) -> dict[str, np.ndarray]:
    """Returns the tensors of a `.pdiparams` file by name; those whose name is None are left out.

    names: of all tensors of the file, in its order. None at all, because they were folded into others, damage, or a
    file that memory does not hold, is a WeightsError.
    """
    if not names:
        raise WeightsError(
            f"{path}: its weights were folded for deployment (BatchNorm into convolutions, for example) and cannot be "
            "read back; name the checkpoint, or export with --no_fold"
        )
    try:
        data = memoryview(path.read_bytes())
    except MemoryError:
        raise WeightsError(f"{path}: memory ran out while it was read; it needs {path.stat().st_size} bytes") from None
    tensors: dict[str, np.ndarray] = {}
    offset = 0
    try:
        for name in names:
            shape, offset = _shape(data, offset)
            size = math.prod(shape)
            values = np.frombuffer(data, np.float32, size, offset).reshape(shape)
            offset += values.nbytes
            if name is not None:
                tensors[name] = values
    except (struct.error, ValueError, OverflowError) as error:
        raise WeightsError(f"{path}: damaged, or not of this export: {error}") from None
    if offset != len(data):
        raise WeightsError(f"{path}: damaged, or not of this export: it holds more than {len(names)} tensors")
    return tensors


def _shape(data: memoryview, offset: int) -> tuple[tuple[int, ...], int]:
    """Returns the shape of the tensor at `offset`, and where its values begin. Anything but float32 is a ValueError."""
    *versions, length = _HEADER.unpack_from(data, offset)
    start = offset + _HEADER.size
    end = start + length
    if any(versions) or not start < end <= len(data):
        raise ValueError(f"no tensor at byte {offset}")
    dims: list[int] = []
    for number, value in read_fields(data[start:end]):
        if number == 2 and isinstance(value, int):
            dims.append(value)
        elif number != 1:
            raise ValueError(f"an unknown field of the tensor at byte {offset}")
        elif value != _FLOAT32:
            raise ValueError(f"the tensor at byte {offset} is not of float32")
    return tuple(dims), end
