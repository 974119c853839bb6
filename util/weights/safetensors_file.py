"""safetensors files of anyone, read by hand: numpy has no bfloat16, which the library can therefore not return.

Eight bytes that say how long the header is, the header (JSON: type, shape and place of each tensor, and
`__metadata__`), and the tensors, without gaps. All that the format promises is checked; there is no checksum, so
nothing can notice a changed byte within a tensor. This project's own checkpoints have one: `container`.
"""

import json
from functools import partial
from typing import Any

from util.errors import DamagedFileError, WeightsError
from util.weights.stored import DTYPES, StoredTensor, check_shape

MAX_HEADER = 4 << 20  # some 100 bytes a tensor
METADATA = "__metadata__"
_OTHER_TYPES = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "C64")


def read_safetensors(data: memoryview) -> dict[str, StoredTensor]:
    """Returns the tensors by name. Raises a DamagedFileError, or a WeightsError for a type that numpy has not."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, MAX_HEADER):
        raise DamagedFileError(
            f"its header claims {size} bytes, expected at most {min(max(len(data) - 8, 0), MAX_HEADER)}"
        )
    try:
        header = json.loads(str(data[8 : 8 + size], "utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DamagedFileError(f"its header is damaged: {reason}") from None
    if not isinstance(header, dict):
        raise DamagedFileError("its header does not name tensors")
    header.pop(METADATA, None)
    content = data[8 + size :]
    places = sorted((_place(name, entry), name) for name, entry in header.items())
    end = 0
    for (start, stop), name in places:
        if start != end or stop < start:
            raise DamagedFileError(f"{name[:80]!r} lies at bytes {start} to {stop}, expected to begin at {end}")
        end = stop
    if end != len(content):
        raise DamagedFileError(f"its tensors have {end} bytes, and {len(content)} are there: cut off, or added to")
    return {name: _tensor(name, header[name], content) for name in header}


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Returns where a tensor begins and ends."""
    place = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(place, list) and len(place) == 2 and all(type(n) is int and 0 <= n < 2**63 for n in place)):
        raise DamagedFileError(f"its header gives {name[:80]!r} no place")
    return place[0], place[1]


def _tensor(name: str, entry: dict[str, Any], content: memoryview) -> StoredTensor:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if dtype in _OTHER_TYPES:
        raise WeightsError(f"{name[:80]!r} has elements of type {dtype}, expected one of {', '.join(DTYPES)}")
    if not isinstance(dtype, str) or dtype not in DTYPES or not isinstance(shape, list):
        raise DamagedFileError(f"its header gives {name[:80]!r} no type or no shape")
    start, stop = entry["data_offsets"]
    try:
        check_shape(tuple(shape))
        return StoredTensor(partial(_part, content, start, stop), stop - start, dtype, tuple(shape))
    except DamagedFileError as error:
        raise DamagedFileError(f"{name[:80]!r}: {error}") from None


def _part(content: memoryview, start: int, stop: int) -> memoryview:
    return content[start:stop]
