"""Weights files that lie, fill the memory or are damaged, by name, and whole ones to cut and change.

With those of tests/hostile_pickles.py, `DAMAGED` and `REFUSED` hold all cases.
"""

import io
import json
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile_pickles import (
    DAMAGED,
    PROTO2,
    REFUSED,
    Call,
    bomb,
    damaged,
    integer,
    pickled,
    state_dict,
    text,
    torch_pickle,
)
from tests.weights_files import field, mindspore_value, varint, write_safetensors, write_torch

__all__ = ["DAMAGED", "REFUSED", "cuts", "flips", "good_files"]

# PyTorch's tensors


def torch_tensor(
    *,
    shape: bytes = b"K\x04\x85",
    strides: bytes = b"K\x01\x85",
    offset: bytes = b"K\x00",
    storage: bytes = b"",
    before: bytes = b"",
    data: bytes = bytes(16),
    repeat: int = 1,
) -> bytes:
    """An archive with a tensor whose parts are any opcodes."""
    identity = storage or torch_storage()
    parts = identity + b"q\5" + offset + shape + strides + b"\x89NtR"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + parts + b"q\6"
    whole = PROTO2 + before + state_dict(tensor, *[b"h\6"] * (repeat - 1))[2:]
    return torch_pickle(whole, data_0=data)


def torch_storage(key: bytes = text("0"), size: bytes = b"K\x04", kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    return b"(" + text("storage") + kind + key + text("cpu") + size + b"tQ"


zero = b"K\x00"
damaged("10^12 elements with stride 0", lambda: torch_tensor(shape=integer(10**12) + b"\x85", strides=zero + b"\x85"))
damaged(
    "10^6 x 10^6 elements with stride 0",
    lambda: torch_tensor(shape=integer(10**6) * 2 + b"\x86", strides=zero * 2 + b"\x86"),
)
damaged("overlapping strides", lambda: torch_tensor(shape=b"K\x03K\x02\x86", strides=b"K\x01K\x01\x86"))
damaged("a negative stride", lambda: torch_tensor(strides=b"J\xff\xff\xff\xff\x85"))
damaged("a negative offset", lambda: torch_tensor(offset=b"J\xff\xff\xff\xff"))
damaged("an offset beyond", lambda: torch_tensor(offset=b"K\x01"))
damaged("an offset of 2^62", lambda: torch_tensor(offset=integer(2**62)))
damaged("a stride of 2^62", lambda: torch_tensor(strides=integer(2**62) + b"\x85"))
damaged("an offset without an end", lambda: torch_tensor(before=bomb(b"")[2:-1], offset=b"h\0"))
damaged("strides without an end", lambda: torch_tensor(before=bomb(b"")[2:-1], strides=b"h\0"))
damaged("a key without an end", lambda: torch_tensor(before=bomb(b"")[2:-1], storage=torch_storage(b"h\0")))
damaged("a persistent id without an end", lambda: torch_tensor(before=bomb(b"")[2:-1], storage=b"h\0Q"))
damaged("an offset that is a float", lambda: torch_tensor(offset=b"G?\xf0\0\0\0\0\0\0"))
damaged("an offset that is a truth value", lambda: torch_tensor(offset=b"\x88"))
damaged("more strides than sizes", lambda: torch_tensor(strides=b"K\x01K\x01\x86"))
damaged("strides that are none", lambda: torch_tensor(strides=b"N"))
damaged("a shape of texts in PyTorch's", lambda: torch_tensor(shape=text("4") + b"\x85"))
damaged("a storage that is missing", lambda: torch_tensor(storage=torch_storage(text("7"))))
damaged("a storage outside of the archive", lambda: torch_tensor(storage=torch_storage(text("../../../etc/passwd"))))
damaged("a storage that is a number", lambda: torch_tensor(storage=torch_storage(b"K\x00")))
damaged("a storage of 2^62 elements", lambda: torch_tensor(storage=torch_storage(size=integer(2**62))))
damaged("a storage of -4 elements", lambda: torch_tensor(storage=torch_storage(size=integer(-4))))
damaged("a storage whose type is a tensor's", lambda: torch_tensor(storage=torch_storage(kind=b"ctorch\nfloat32\n")))
damaged("a storage without a type", lambda: torch_tensor(storage=torch_storage(kind=b"N")))
damaged(
    "bytes without a type",
    lambda: torch_tensor(storage=torch_storage(size=b"K\x10", kind=b"ctorch.storage\nUntypedStorage\n")),
)
damaged("a tensor of a number", lambda: torch_tensor(storage=b"K\x01"))
damaged("a tensor of nothing", lambda: torch_pickle(pickled(Call("torch._utils", "_rebuild_tensor_v2"))))
damaged("a parameter of nothing", lambda: torch_pickle(pickled(Call("torch._utils", "_rebuild_parameter", 1, 2, 3))))
damaged("a persistent id that is a list", lambda: torch_pickle(PROTO2 + b"]Q."))
damaged(
    "a tensor of 4 MB, named 1000 times",
    lambda: torch_tensor(
        shape=integer(1 << 20) + b"\x85", storage=torch_storage(size=integer(1 << 20)), data=bytes(1 << 22), repeat=1000
    ),
)
damaged(
    "95,000 tensors in one storage",
    lambda: torch_pickle(
        PROTO2
        + torch_storage()
        + b"q\5ctorch._utils\n_rebuild_tensor_v2\nq\6(h\5K\0K\4\x85K\1\x85\x89Ntq\7"
        + b"h\6h\7R0" * 95_000
        + b"h\6h\7R"
        + b".",
        data_0=bytes(16),
    ),
)
damaged("a Size of a number", lambda: torch_pickle(pickled({"w": Call("torch", "Size", 10**12)})))


def torch_archive() -> bytes:
    """A whole, harmless one."""
    return torch_tensor()


def zip_with(change: Callable[[bytearray, int], None]) -> bytes:
    """A harmless archive, changed at the first record of its directory."""
    content = bytearray(torch_archive())
    change(content, content.index(b"PK\1\2"))
    return bytes(content)


def put(form: str, at: int, *values: int) -> Callable[[bytearray, int], None]:
    return lambda content, record: struct.pack_into(form, content, record + at, *values)


def put_at_end(form: str, at: int, *values: int) -> bytes:
    content = bytearray(torch_archive())
    struct.pack_into(form, content, content.index(b"PK\5\6") + at, *values)
    return bytes(content)


def compressed_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", torch_pickle(state_dict()))
        archive.writestr("archive/data/0", bytes(50_000_000))
    return stream.getvalue()


def zip_of(*names: str, content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that stands twice
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def many_records(count: int) -> bytes:
    """A directory in which one entry of 40 kB stands under many names."""
    data = bytes(40_000)
    local = (
        struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), 1, 0)
        + b"a"
        + data
    )
    records = b"".join(
        struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\1\2",
            20,
            20,
            0,
            0,
            0,
            0,
            zlib.crc32(data),
            len(data),
            len(data),
            6,
            0,
            0,
            0,
            0,
            0,
            0,
        )
        + b"%06d" % i
        for i in range(count)
    )
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(records), len(local), 0)
    return local + records + end


damaged("an entry of 4 GB", lambda: zip_with(put("<II", 20, 2**32 - 2, 2**32 - 2)))
damaged("an entry with two sizes", lambda: zip_with(put("<I", 24, 10**9)))
damaged("an entry beyond the end", lambda: zip_with(put("<I", 42, 2**31)))
damaged("an entry in another's middle", lambda: zip_with(put("<I", 42, 3)))
damaged("an entry with the checksum of another", lambda: zip_with(put("<I", 16, 1)))
damaged("an entry without a checksum", lambda: zip_with(put("<I", 16, 0)))
damaged("an encrypted entry", lambda: zip_with(put("<H", 8, 1)))
damaged("an entry compressed by an unknown method", lambda: zip_with(put("<H", 10, 97)))
damaged("a name longer than the directory", lambda: zip_with(put("<H", 28, 65535)))
damaged("a compressed archive of 50 MB of zeros", compressed_bomb)
damaged("a directory of 4 GB", lambda: put_at_end("<I", 12, 2**32 - 2))
damaged("a directory beyond the end", lambda: put_at_end("<I", 16, 2**31))
damaged("a directory with numbers of 64 bits that are nowhere", lambda: put_at_end("<II", 12, 2**32 - 1, 2**32 - 1))
damaged("a directory in the middle of the pickle", lambda: put_at_end("<I", 16, 50))
damaged("entries that lie on each other", lambda: many_records(2000))
damaged("60,000 entries", lambda: many_records(60_000))
damaged("an entry above its folder", lambda: zip_of("archive/data.pkl", "archive/../../evil"))
damaged("an entry at the root", lambda: zip_of("archive/data.pkl", "/etc/passwd"))
damaged("an entry of Windows", lambda: zip_of("archive/data.pkl", "archive\\..\\evil"))
damaged("a name twice", lambda: zip_of("archive/data.pkl", "archive/data.pkl"))
damaged("two pickles", lambda: zip_of("archive/data.pkl", "other/data.pkl"))
damaged("an archive without a pickle", lambda: zip_of("archive/version"))
damaged("an archive of nothing", lambda: zip_of())
damaged("an archive without a directory", lambda: b"PK\3\4" + bytes(100_000))
damaged("an archive in another's comment", lambda: b"PK\3\4" + torch_archive() + b"PK\5\6" + bytes(10))
damaged("numbers in big endian", lambda: torch_pickle(state_dict(), byteorder=b"big"))

# MindSpore


def value(tensor: bytes, tag: bytes = b"a") -> bytes:
    return field(1, field(1, tag) + field(2, tensor))


good_tensor = b"\x08\x01" + field(2, b"Float32") + field(3, bytes(4))
good_value = mindspore_value("first", (1,), "Float32", bytes(4))
damaged("a value that claims 2^60 bytes", lambda: good_value + b"\x0a" + varint(2**60))
damaged(
    "content that claims 2^60 bytes",
    lambda: good_value + value(b"\x08\x01" + field(2, b"Float32") + b"\x1a" + varint(2**60)),
)
damaged("dims of 10^12", lambda: good_value + mindspore_value("a", (10**12,), "Float32", bytes(4)))
damaged("dims that overflow", lambda: good_value + mindspore_value("a", (2**40, 2**40), "Float32", bytes(4)))
damaged("dims of -1", lambda: good_value + mindspore_value("a", (2**64 - 1,), "Float32", bytes(4)))
damaged("dims of 0 and much content", lambda: good_value + mindspore_value("a", (0, 3), "Float32", bytes(4)))
damaged("a million dims", lambda: good_value + value(b"\x08\x01" * 1_000_000 + good_tensor))
damaged("a million dims, packed", lambda: good_value + value(field(1, b"\x01" * 1_000_000) + good_tensor))
damaged("a number that does not end", lambda: good_value + b"\x0a" + b"\xff" * 100_000)
damaged("half a million empty values", lambda: good_value + b"\x0a\x00" * 500_000)
damaged("100,000 values", lambda: b"".join(mindspore_value(str(i), (), "Int8", b"x") for i in range(100_000)))
damaged("a million parts", lambda: mindspore_value("a", (), "Int8", b"") * 200_000)
damaged("a value with a million fields", lambda: good_value + field(1, field(1, b"a") + b"\x20\x01" * 500_000))
damaged("a value with a million tags", lambda: good_value + field(1, field(1, b"a") * 300_000))
damaged("groups within groups", lambda: good_value + b"\x0b" * 1_000_000)
damaged("values within values", lambda: nested_values(2000))
damaged("a value twice", lambda: good_value + mindspore_value("b", (), "Int8", b"x") + good_value)
damaged("parts of two types", lambda: good_value + mindspore_value("first", (1,), "Int32", bytes(4)))
damaged("a value with two tensors", lambda: good_value + field(1, field(1, b"a") + field(2, good_tensor) * 2))
damaged("a value without a tensor", lambda: good_value + field(1, field(1, b"a")))
damaged("a value without a tag", lambda: good_value + field(1, field(2, good_tensor)))
damaged("a tensor without content", lambda: good_value + value(b"\x08\x01" + field(2, b"Float32")))
damaged("a tensor of texts of another kind", lambda: good_value + mindspore_value("a", (1,), "Complex64", bytes(8)))
damaged("a hash table", lambda: good_value + field(1, field(1, b"a") + field(3, field(1, good_tensor))))
damaged("field number 0", lambda: good_value + b"\x02\x00")
damaged("another message", lambda: good_value + field(7, good_tensor))
damaged("a checksum of another file", lambda: good_value + b"crc_num" + bytes(10))
damaged("MindSpore's cipher", lambda: bytes.fromhex("d85e3a7f") + bytes(100))


def nested_values(depth: int) -> bytes:
    content = good_tensor
    for _ in range(depth):
        content = field(1, field(1, b"a") + field(2, content))
    return content


# safetensors


def safetensors(header: Any, content: bytes = bytes(16), *, size: int | None = None) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data) if size is None else size) + data + content


entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def with_entry(**changes: Any) -> bytes:
    return safetensors({"weight": {**entry, **changes}})


for claim in (2**63, 2**64 - 1, 200_000_000, 17 + len(json.dumps({"w": entry}))):
    damaged(f"a header of {claim} bytes", lambda c=claim: safetensors({"w": entry}, size=c))  # type: ignore[misc]
damaged("a header of 6 MB", lambda: safetensors(b"{" + b" " * 6_000_000 + b"}", b""))
damaged(
    "70,000 keys",
    lambda: safetensors({f"{i:05}": {"dtype": "U8", "shape": [], "data_offsets": [i, i + 2]} for i in range(70_000)}),
)
damaged("lists within lists, a million deep", lambda: safetensors(b"{" + b"[" * 1_000_000))
damaged("two million zeros", lambda: safetensors(b'{"a":[' + b"0," * 2_000_000 + b"0]}"))
damaged("a million empty lists", lambda: safetensors(b'{"a":[' + b"[]," * 1_300_000 + b"0]}"))
damaged("a number of a million digits", lambda: safetensors(b'{"a":' + b"9" * 1_000_000 + b"}"))
damaged("a name of 3 MB", lambda: safetensors({"a" * 3_000_000: entry}))
damaged(
    "a key twice",
    lambda: safetensors(b'{"w":' + json.dumps(entry).encode() + b',"w":' + json.dumps(entry).encode() + b"}"),
)
damaged("a dtype twice", lambda: safetensors(b'{"w":{"dtype":"F32","dtype":"F64","shape":[4],"data_offsets":[0,16]}}'))
damaged("an overlap", lambda: safetensors({"a": entry, "b": entry}))
damaged("a gap", lambda: safetensors({"a": {**entry, "data_offsets": [4, 20]}}, bytes(20)))
damaged("bytes behind the end", lambda: safetensors({"a": entry}, bytes(17)))
damaged("too few bytes", lambda: safetensors({"a": entry}, bytes(15)))
damaged("a shape of 10^12 in safetensors", lambda: with_entry(shape=[10**12]))
damaged("a shape that overflows", lambda: with_entry(shape=[2**40, 2**40]))
damaged("a negative shape in safetensors", lambda: with_entry(shape=[-4]))
damaged("a shape of -2 x -2", lambda: with_entry(shape=[-2, -2]))
damaged("a shape of floats in safetensors", lambda: with_entry(shape=[4.0]))
damaged("a shape of truth values", lambda: with_entry(shape=[True, 4]))
damaged(
    "a shape of zero by 2^62 in safetensors",
    lambda: safetensors({"a": {**entry, "shape": [0, 2**62], "data_offsets": [0, 0]}}, b""),
)
damaged("a header in UTF-16", lambda: safetensors(json.dumps({"a": entry}).encode("utf-16-le")))
damaged("a name that cannot be encoded in safetensors", lambda: safetensors({"a\ud800": entry}))
damaged("a shape of 10^5 ones", lambda: with_entry(shape=[1] * 100_000))
damaged("a shape that is a text", lambda: with_entry(shape="4"))
damaged("a type that is unknown", lambda: with_entry(dtype="O"))
damaged("a type that is a list", lambda: with_entry(dtype=["F32"]))
damaged("a type of 8 bits", lambda: with_entry(dtype="F8_E4M3", shape=[16]))
damaged("a place in reverse", lambda: with_entry(data_offsets=[16, 0]))
damaged("a negative place", lambda: with_entry(data_offsets=[-16, 0]))
damaged("a place of one number", lambda: with_entry(data_offsets=[0]))
damaged("a place beyond", lambda: with_entry(data_offsets=[0, 2**62]))
damaged("no place", lambda: safetensors({"a": {"dtype": "F32", "shape": [4]}}))
damaged("an entry that is a number", lambda: safetensors({"a": 3}))
damaged("a header that is no JSON", lambda: safetensors(b"{'a': 1}"))
damaged("a header that is not UTF-8", lambda: safetensors(b'{"\xff\xfe": 1}'))
damaged("metadata alone", lambda: safetensors({"__metadata__": {"format": "pt"}}, b""))


# whole files, to be cut and changed


def good_files() -> dict[str, bytes]:
    """Harmless files of each format, of about a kilobyte."""
    rng = np.random.default_rng(1)
    tensors = {"weight": rng.normal(size=(4, 6)).astype(np.float32), "bias": np.ones(4, np.float32)}
    files: dict[str, bytes] = {}
    for protocol in (2, 3, 4):
        files[f"paddle, protocol {protocol}"] = pickle.dumps({"model": tensors, "epoch": 3}, protocol)
    return files | {
        "torch": torch_of(tensors),
        "safetensors": written(write_safetensors, tensors),
        "mindspore": b"".join(mindspore_value(n, t.shape, "Float32", t.tobytes()) for n, t in tensors.items()),
    }


def written(write: Callable[[Path, Any], None], tensors: Any) -> bytes:
    stream = _Bytes()
    write(stream, tensors)  # type: ignore[arg-type]
    return stream.content


class _Bytes:
    """Stands for a path that is only written to."""

    content = b""

    def write_bytes(self, data: bytes) -> None:
        self.content = data


def torch_of(tensors: Any) -> bytes:
    stream = io.BytesIO()
    write_torch(stream, tensors, wrap="state_dict")  # type: ignore[arg-type]
    return stream.getvalue()


def cuts(content: bytes, count: int) -> Iterable[tuple[str, bytes]]:
    """The file up to each of `count` places."""
    for size in sorted({len(content) * i // count for i in range(count)} | {len(content) - 1}):
        yield f"cut at {size}", content[:size]


def flips(content: bytes, count: int) -> Iterable[tuple[str, bytes]]:
    """The file with one bit changed, in each of `count` places."""
    rng = np.random.default_rng(2)
    for place in sorted({int(place) for place in rng.integers(0, len(content), count)}):
        bit = int(rng.integers(8))
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} changed", bytes(changed)
