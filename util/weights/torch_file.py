"""Files of `torch.save` since PyTorch 1.6: a zip archive of one pickle and one entry for each storage.

The archive holds, in one folder of any name, `data.pkl`, `data/<key>` for each storage, and some entries that say how
they were written, of which only `byteorder` matters. PyTorch does not compress, so neither may a file here: an entry
has its size, and all together have no more than the file. Each entry that is read must have its CRC-32.
(Archives without, from `torch.serialization.set_crc32_options(False)`, are refused.)

A tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`; a storage is a persistent
id `("storage", type, key, location, number of elements)`. Nothing else of PyTorch is needed, nor allowed.
"""

from dataclasses import dataclass
from typing import Any

from util.errors import DamagedFileError
from util.weights.pickled_arrays import PLAIN_GLOBALS
from util.weights.pickles import Global, Inert, PickleMachine
from util.weights.plain_zip import Entry, read_zip
from util.weights.stored import DTYPES, StoredTensor

_CONVERT = "if you trust it, load it with PyTorch and write its state dict with safetensors.torch.save_file"


@dataclass(frozen=True, slots=True)
class Storage:
    """Elements of one type, in an entry. `dtype` is none for bytes whose tensor says what they are."""

    entry: Entry
    dtype: str | None


def read_torch(data: memoryview) -> Any:
    """Returns what was saved, with a StoredTensor for each tensor. Raises DamagedFileError or UntrustedFileError."""
    entries = read_zip(data)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise DamagedFileError(f"a zip archive with {len(pickles)} entries <folder>/data.pkl, where PyTorch writes one")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order is not None and bytes(order.verified()) != b"little":
        raise DamagedFileError(f"its numbers are written in byte order {bytes(order.data[:20])!r}, expected little")
    pickle = entries[pickles[0]].verified()
    machine = PickleMachine(
        pickle,
        allowed=TORCH_GLOBALS,
        how_to_convert=_CONVERT,
        persistent_load=lambda identity: _find_storage(identity, entries, f"{folder}data/"),
    )
    return machine.run()


def _find_storage(identity: Any, entries: dict[str, Entry], folder: str) -> Storage:
    """Returns the storage that a persistent id means."""
    if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
        raise DamagedFileError("its pickle has a persistent id that is no storage of PyTorch's")
    _, kind, key, _, num_elements = identity
    if not isinstance(kind, Global) or kind.name not in _STORAGES:
        raise DamagedFileError("its pickle has a storage of no type")
    if not isinstance(key, str) or type(num_elements) is not int:
        raise DamagedFileError("its pickle has a storage without a key and a number of elements")
    entry = entries.get(folder + key)
    if entry is None:
        raise DamagedFileError(f"its storage {key[:40]!r} is missing")
    itemsize = DTYPES[kind.value].itemsize if kind.value else 1
    if num_elements * itemsize != len(entry.data):
        raise DamagedFileError(
            f"its storage {key[:40]!r} has {len(entry.data)} bytes, expected {num_elements} elements of {itemsize}"
        )
    return Storage(entry, kind.value)


def _rebuild_tensor(arguments: tuple[Any, ...], *, typed_here: bool = False) -> StoredTensor:
    """Stands for `_rebuild_tensor_v2`, and for `_v3`, whose seventh argument is the type of the elements."""
    if len(arguments) < (7 if typed_here else 6) or not isinstance(arguments[0], Storage):
        raise DamagedFileError("its pickle has a tensor without a storage")
    if not typed_here and len(arguments) > 6 and arguments[6]:
        raise DamagedFileError("its pickle has a tensor with a note (such as a negative view), which is not read")
    storage, offset, shape, strides = arguments[:4]
    dtype = storage.dtype
    if typed_here:
        dtype = arguments[6].value if isinstance(arguments[6], Global) else None
    if dtype not in DTYPES or not isinstance(strides, tuple):
        raise DamagedFileError("its pickle has a tensor without a type or without strides")
    return StoredTensor(
        storage.entry.verified, len(storage.entry.data), dtype, shape, strides=strides, offset=offset
    )  # fmt: skip


def _rebuild_parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    if not arguments or not isinstance(arguments[0], StoredTensor):
        raise DamagedFileError("its pickle has a parameter without a tensor")
    return arguments[0]


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        raise DamagedFileError("its pickle has a torch.Size of something else than a tuple")
    return arguments[0]


_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "UntypedStorage": None,
}  # fmt: skip
_TYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
}  # fmt: skip

TORCH_GLOBALS = {
    **PLAIN_GLOBALS,
    **{("torch", name): Global(name, value=dtype) for name, dtype in _STORAGES.items() if dtype},
    ("torch.storage", "UntypedStorage"): Global("UntypedStorage"),
    **{("torch", name): Global(name, value=dtype) for name, dtype in _TYPES.items()},
    ("torch._utils", "_rebuild_tensor_v2"): Global("_rebuild_tensor_v2", _rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Global(
        "_rebuild_tensor_v3", lambda arguments: _rebuild_tensor(arguments, typed_here=True)
    ),
    ("torch._utils", "_rebuild_parameter"): Global("_rebuild_parameter", _rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Global("_rebuild_parameter_with_state", _rebuild_parameter),
    ("torch", "Size"): Global("Size", _size),
    ("torch", "device"): Global("device", lambda arguments: Inert()),
}
