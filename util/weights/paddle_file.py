"""Files of `paddle.save` (3.3.1, protocols 2 to 4): one pickle.

- A state dict (`.pdparams`, PaddleClas, PaddleViT): numpy arrays by name, and `StructuredToParameterName@@`, Paddle's
  own names of the parameters.
- A dict around it (CvT-paddle's `checkpoint-*.pd`): each tensor in it is a tuple of its name and its array.
- In protocols 2 and 3, arrays of 1 GB and more are cut in slices `<name>@@.<i>`; `UnpackBigParamInfor@@` says which
  belong together. Such slices at the top of the file are put together again.

bfloat16 has no type in numpy: Paddle writes its bits as uint16, a type that no parameter of Paddle's can have.
"""

import dataclasses
from typing import Any

from util.errors import DamagedFileError
from util.weights.pickled_arrays import PLAIN_GLOBALS, PickledArray
from util.weights.pickles import PickleMachine
from util.weights.stored import StoredTensor

PARAMETER_NAMES = "StructuredToParameterName@@"
SLICES = "UnpackBigParamInfor@@"
_CONVERT = "if you trust it, load it with Paddle and write its state dict with paddle.save(..., safetensors=True)"


def read_paddle(data: memoryview) -> Any:
    """Returns what was saved; a tensor of Paddle's is a PickledArray, or a tuple of its name and one."""
    value = PickleMachine(data, allowed=PLAIN_GLOBALS, how_to_convert=_CONVERT).run()
    return _joined(value) if isinstance(value, dict) and SLICES in value else value


def as_tensor(value: Any) -> StoredTensor | None:
    """Returns a saved value's tensor, None if it is something else."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(value, PickledArray):
        return value if isinstance(value, StoredTensor) else None
    if value.tensor is None:
        raise DamagedFileError("its pickle has an array without values")
    return dataclasses.replace(value.tensor, dtype="BF16") if value.tensor.dtype == "U16" else value.tensor


def _joined(saved: dict[Any, Any]) -> dict[Any, Any]:
    """Returns a dict in which each sliced array stands once, as a whole."""
    saved = dict(saved)
    slices = saved.pop(SLICES)
    if not isinstance(slices, dict) or not all(isinstance(how, dict) for how in slices.values()):
        raise DamagedFileError(f"{SLICES} does not say how its slices belong together")
    for name, how in slices.items():
        names = how.get("slices")
        if not isinstance(names, list) or not all(isinstance(part, str) and part in saved for part in names):
            raise DamagedFileError(f"{SLICES} names slices that are not there")
        saved[name] = _join([as_tensor(saved[part]) for part in names], how.get("OriginShape"), str(name)[:80])
        for part in names:
            saved.pop(part, None)
    return saved


def _join(parts: list[StoredTensor | None], shape: Any, name: str) -> StoredTensor:
    tensors = [part for part in parts if part is not None]
    if not tensors or len(tensors) != len(parts) or len({part.dtype for part in tensors}) != 1:
        raise DamagedFileError(f"the slices of {name!r} are no arrays of one type")
    num_bytes = sum(part.num_bytes for part in tensors)
    return StoredTensor(
        lambda: b"".join(part.read() for part in tensors), num_bytes, tensors[0].dtype, _as_sizes(shape)
    )


def _as_sizes(shape: Any) -> tuple[int, ...]:
    return tuple(shape) if isinstance(shape, list) else shape
