"""Weights files that want to run code, fill the memory, never end, or are damaged; built by hand, by name.

Every case is a function without arguments that returns a file's bytes, or a function that writes it. `REFUSED` ask for
something outside of the allowed names (exit code 77), `DAMAGED` are not what their format promises (65).
"""

import copy
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tests.weights_files import Name, NamePickler, field, mindspore_value, varint, write_safetensors, write_torch

EXTENSION_CODES = {0x82: 240, 0x83: 2400, 0x84: 240000}
COMMAND = "touch canary"  # in the folder where the files are read

Case = Callable[[], bytes]
REFUSED: dict[str, Case] = {}
DAMAGED: dict[str, Case] = {}

STOP, PROTO2 = b".", b"\x80\x02"
ARRAY = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"  # an array without values


def refused(name: str, case: Case) -> None:
    REFUSED[name] = case


def damaged(name: str, case: Case) -> None:
    DAMAGED[name] = case


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def dtype(name: str, order: str = "<") -> bytes:
    return b"cnumpy\ndtype\n" + text(name) + b"\x89\x88\x87R(K\x03" + text(order) + b"NNNJ\xff\xff\xff\xffK\0K\0tb"


def integer(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def array(shape: bytes, data: bytes = b"C\x04\0\0\0\0", kind: bytes = b"") -> bytes:
    """An array as numpy pickles it, whose shape, values and type are any opcodes."""
    return ARRAY + b"(K\x01" + shape + (kind or dtype("f4")) + b"\x89" + data + b"tb"


def state_dict(*values: bytes) -> bytes:
    """A pickle of protocol 2 whose values are any opcodes."""
    items = b"".join(text(f"weight{i}") + value for i, value in enumerate(values))
    return PROTO2 + b"}(" + items + b"u" + STOP


class Call:
    """Pickles as a call of a name, whether there is such a function or not."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.reduced = Name(module, name), arguments


def pickled(value: Any, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    NamePickler(stream, protocol, {Call: lambda call: call.reduced}).dump(value)
    return stream.getvalue()


class System:
    """Runs a command when Python unpickles it."""

    def __reduce__(self) -> Any:
        return os.system, (COMMAND,)


# names

for number in range(6):
    refused(f"os.system, protocol {number}", lambda p=number: pickle.dumps({"weight": System()}, p))  # type: ignore[misc]
    refused(f"os.system at the top, protocol {number}", lambda p=number: pickle.dumps(System(), p))  # type: ignore[misc]

for module, function, *given in (
    ("os", "system", COMMAND),
    ("posix", "system", COMMAND),
    ("nt", "system", COMMAND),
    ("os", "execv", "/bin/sh", ["sh", "-c", COMMAND]),
    ("subprocess", "Popen", ["sh", "-c", COMMAND]),
    ("subprocess", "check_output", ["sh", "-c", COMMAND]),
    ("pty", "spawn", ["sh", "-c", COMMAND]),
    ("builtins", "eval", f"__import__('os').system('{COMMAND}')"),
    ("__builtin__", "eval", "1"),
    ("builtins", "exec", f"import os; os.system('{COMMAND}')"),
    ("builtins", "compile", "1", "x", "eval"),
    ("builtins", "getattr", {}, "__class__"),
    ("builtins", "__import__", "os"),
    ("builtins", "open", "canary", "w"),
    ("builtins", "print", "x"),
    ("importlib", "import_module", "os"),
    ("operator", "attrgetter", "system"),
    ("operator", "methodcaller", "system", COMMAND),
    ("functools", "partial", 1),
    ("copyreg", "_reconstructor", 1, 2, 3),
    ("copy_reg", "_reconstructor", 1, 2, 3),
    ("types", "CodeType", 0),
    ("marshal", "loads", b"x"),
    ("pickle", "loads", b"x"),
    ("ctypes", "CDLL", "libc.so.6"),
    ("socket", "create_connection", ("localhost", 9)),
    ("webbrowser", "open", "http://localhost:9"),
    ("shutil", "rmtree", "canary"),
    ("runpy", "run_path", "canary"),
    ("numpy", "load", "canary"),
    ("numpy", "fromfile", "canary"),
    ("numpy._core.numeric", "_frombuffer", b"x"),
    ("torch", "load", "canary"),
    ("torch.hub", "load", "a/b", "c"),
    ("torch._utils", "_import_dotted_name", "os.system"),
    ("torch.storage", "_load_from_bytes", b"x"),
    ("paddle", "load", "canary"),
    ("collections", "defaultdict", 1),
    ("codecs", "decode", "a", "rot13"),
    # found by names with dots in Pythons and in unpicklers that look at the module alone
    ("numpy._core.numeric", "os.system", COMMAND),
    ("numpy", "core.multiarray._reconstruct", COMMAND),
    ("collections", "OrderedDict.__class__", COMMAND),
    ("argparse", "_os.system", COMMAND),
    ("builtins", "tuple.__class__", COMMAND),
    ("", "eval", "1"),
    ("numpy.core.multiarray.os", "system", COMMAND),
):
    refused(f"a call of {module}:{function}", lambda m=module, f=function, a=given: pickled({"w": Call(m, f, *a)}))  # type: ignore[misc]

refused(
    "a name with dots off the stack, protocol 4",
    lambda: b"\x80\x04" + text("numpy._core.numeric") + text("os.system") + b"\x93" + text(COMMAND) + b"\x85R.",
)
refused("a name that is only mentioned", lambda: PROTO2 + b"}X\x01\0\0\0acposix\nsystem\ns.")
refused("a name after whole weights", lambda: pickled({"weight": np.zeros(3), "more": Call("os", "system", COMMAND)}))
refused("an array of objects", lambda: pickle.dumps({"weight": np.array([1, "a"], dtype=object)}))
refused("an array of pickles", lambda: pickle.dumps({"weight": np.array([System()], dtype=object)}))
refused("an array whose type claims objects", lambda: state_dict(array(b"K\x01\x85", kind=dtype("O8"))))
for opcode, code in EXTENSION_CODES.items():
    refused(
        f"an extension code, opcode {opcode}",
        lambda o=opcode, c=code: (  # type: ignore[misc]
            PROTO2 + bytes([o]) + c.to_bytes({0x82: 1, 0x83: 2, 0x84: 4}[o], "little") + text(COMMAND) + b"\x85R."
        ),
    )
refused("INST of os.system", lambda: b"(" + b"S'" + COMMAND.encode() + b"'\niposix\nsystem\n.")
refused("INST of os.system, protocol 2", lambda: PROTO2 + b"(" + text(COMMAND) + b"iposix\nsystem\n.")
refused("OBJ of a name that is allowed", lambda: PROTO2 + b"(ccollections\nOrderedDict\no.")
refused("OBJ of os.system", lambda: PROTO2 + b"(cposix\nsystem\n" + text(COMMAND) + b"o.")
refused("named arguments (NEWOBJ_EX)", lambda: b"\x80\x04ccollections\nOrderedDict\n)}\x92.")
refused("a persistent id of text", lambda: b"\x80\x02P0\n.")
refused("a persistent id outside of PyTorch's files", lambda: PROTO2 + b"K\x01Q.")
refused("a buffer outside of the pickle", lambda: b"\x80\x05\x97.")


def torch_pickle(content: bytes, **more: bytes) -> bytes:
    """PyTorch's archive around a pickle; `more` are other entries, by name with _ for /."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in {"data.pkl": content, **{n.replace("_", "/"): d for n, d in more.items()}}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    return stream.getvalue()


refused("os.system in PyTorch's archive", lambda: torch_pickle(pickle.dumps({"w": System()}, 2)))
refused("os.system as PyTorch's persistent id", lambda: torch_pickle(PROTO2 + pickle.dumps(System(), 2)[2:-1] + b"Q."))
refused("eval as a storage's type", lambda: torch_pickle(PROTO2 + b"(" + text("storage") + b"cbuiltins\neval\ntQ."))
refused("TorchScript", lambda: torch_pickle(pickled(Call("__torch__.models", "Net")), constants=b""))
refused("a name with dots in PyTorch's", lambda: torch_pickle(pickled({"w": Call("torch", "hub.load", "a")})))

# states and arguments for names that are allowed

damaged(
    "a dict as the state of a Namespace",
    lambda: PROTO2 + b"cargparse\nNamespace\n)\x81}" + text("__class__") + b"K\x01sb.",
)
damaged("a dict as the state of an array", lambda: state_dict(ARRAY + b"}" + text("__setstate__") + b"K\x01sb"))
damaged("a state for a class", lambda: PROTO2 + b"cnumpy\nndarray\n}" + text("__setstate__") + b"K\x01sb.")
damaged("a state for a function", lambda: PROTO2 + b"cnumpy._core.multiarray\n_reconstruct\n}K\x01K\x02sb.")
damaged("attributes through a pair of dicts", lambda: PROTO2 + b"cnumpy\ndtype\n" + text("f4") + b"\x85R}}\x86b.")
damaged("a state that lacks its values", lambda: state_dict(ARRAY + b"(K\x01K\x01\x85tb"))
damaged("an array without values", lambda: state_dict(ARRAY))
damaged("an array of fields", lambda: state_dict(array(b"K\x01\x85", kind=dtype("V4"))))
damaged("a type with a text of 100 kB", lambda: state_dict(array(b"K\x01\x85", kind=dtype("f4," * 33333))))
damaged("a type without a name", lambda: PROTO2 + b"cnumpy\ndtype\n)R.")
damaged("OrderedDict of pairs", lambda: pickled({"w": Call("collections", "OrderedDict", [["a", 1]])}))
damaged("OrderedDict of a number", lambda: pickled({"w": Call("collections", "OrderedDict", 10**9)}))
damaged("bytes of a number", lambda: pickled({"w": Call("builtins", "bytes", 10**9)}))
damaged("tuples of a long list, again and again", lambda: PROTO2 + b"cbuiltins\ntuple\nq\0](" + b"N" * 50_000 + b"eq\1" + b"h\0h\1\x85R" * 50_000 + b".")  # fmt: skip
damaged("another encoding", lambda: pickled({"w": Call("_codecs", "encode", "a" * 1000, "zlib_codec")}))
damaged("a call of numpy.ndarray", lambda: pickled({"w": Call("numpy", "ndarray", (10**12,))}))
damaged("an empty array of 10^12", lambda: pickled({"w": Call("numpy.core.multiarray", "_reconstruct", Name("numpy", "ndarray"), (10**12,), b"b")}))  # fmt: skip
damaged("a call of a text", lambda: PROTO2 + text("os.system") + b")R.")
damaged("a call with a list", lambda: PROTO2 + b"ccollections\nOrderedDict\n]R.")
damaged("shape 10^12", lambda: state_dict(array(integer(10**12) + b"\x85")))
damaged("shape 10^12 of bytes in text", lambda: state_dict(array(integer(10**12) + b"\x85", latin1("x" * 500))))
damaged("shapes that overflow 64 bits", lambda: state_dict(array((integer(2**40) * 3) + b"\x87")))
damaged("a negative shape", lambda: state_dict(array(b"J\xff\xff\xff\xff\x85")))
damaged("a shape of zero and 10^18", lambda: state_dict(array(b"K\0" + integer(2**62) + b"\x86", b"C\x01a")))
damaged("a shape of 10^5 sizes", lambda: state_dict(array(b"(" + b"K\x01" * 100_000 + b"t")))
damaged("a shape that is no tuple", lambda: state_dict(array(b"](K\x01e")))
damaged("a shape of texts", lambda: state_dict(array(text("9" * 9) + b"\x85")))
damaged("a shape of floats", lambda: state_dict(array(b"G?\xf0\0\0\0\0\0\0\x85")))
damaged("values that are a list", lambda: state_dict(array(b"K\x01\x85", b"](K\x01e")))
damaged("values in another text than latin-1", lambda: state_dict(array(b"K\x64\x85", latin1("\u0100" * 200))))
damaged("values in a text of the wrong length", lambda: state_dict(array(b"K\x64\x85", latin1("x" * 401))))
damaged("the same long text for many arrays", lambda: PROTO2 + text("\xff" * 200_000) + b"q\0" + repeated_texts(30_000))
damaged("10 MB in one array, named 1000 times", lambda: state_dict(array(integer(2_500_000) + b"\x85", b"B\x80\x96\x98\0" + bytes(10_000_000)) + b"q\7", *[b"h\7"] * 1000))  # fmt: skip


def latin1(value: str) -> bytes:
    """Bytes as protocol 2 writes them."""
    return b"c_codecs\nencode\n" + text(value) + text("latin1") + b"\x86R"


def repeated_texts(count: int) -> bytes:
    """Arrays with a long text in the memo for values, which must not be walked through for each."""
    values = b"c_codecs\nencode\nh\0" + text("latin1") + b"\x86R"
    setup = array(b"K\x01\x85", values)
    return setup + b"q\1(K\x01K\x01\x85" + dtype("f4") + b"\x89" + values + b"tq\2" + b"0h\1h\2b" * count + b"."


# the machine itself

damaged("a list that holds itself 2^10000 times", lambda: PROTO2 + b"]q\0" + b"](h\0h\0eq\0" * 10_000 + b".")
damaged("dicts that hold themselves 2^10000 times", lambda: PROTO2 + b"}q\0" + b"}(K\1h\0K\2h\0uq\0" * 10_000 + b"0}" + text("model") + b"h\0s.")  # fmt: skip
damaged("a list within a list, a million deep", lambda: PROTO2 + b"]" * 1_000_000 + b"a" * 999_999 + b".")
damaged("a list within a list, 250,000 deep", lambda: PROTO2 + b"]" * 250_000 + b"a" * 249_999 + b".")
damaged("a tuple within a tuple, 500,000 deep", lambda: PROTO2 + b")" + b"\x85" * 500_000 + b".")
damaged("a dict within a dict, 100,000 deep", lambda: PROTO2 + b"}K\1" * 100_000 + b"N" + b"s" * 100_000 + b".")
damaged("marks, 500,000 deep", lambda: PROTO2 + b"(" * 500_000 + b".")
damaged("a million marks and tuples", lambda: PROTO2 + b"(" * 300_000 + b"t" * 290_000 + b".")
damaged("a deep tuple as a key", lambda: PROTO2 + b"})" + b"\x85" * 300_000 + b"Ns.")
damaged("a list as a key", lambda: PROTO2 + b"}]Ns.")
damaged("600,000 empty dicts", lambda: PROTO2 + b"](" + b"}" * 590_000 + b"e.")
damaged("600,000 dicts in the memo", lambda: b"\x80\x04" + b"}\x94" * 299_000 + b".")
damaged("two million steps", lambda: PROTO2 + b"N0" * 1_000_000 + b".")
damaged("keys that collide", lambda: PROTO2 + b"}(" + b"".join(b"\x8a\x11" + (i * (2**61 - 1)).to_bytes(17, "little") + b"N" for i in range(40_000)) + b"u.")  # fmt: skip
damaged("keys of 8 bytes that collide", lambda: PROTO2 + b"}(" + b"".join(integer(i % 4 * (2**61 - 1)) + b"N" for i in range(50_000)) + b"u.")  # fmt: skip
damaged("LONG4 that claims 2 GB", lambda: PROTO2 + b"\x8b\xff\xff\xff\x7f.")
damaged("LONG4 of a megabyte", lambda: PROTO2 + b"\x8b\0\0\x10\0" + b"\x7f" * (1 << 20) + b".")
damaged("LONG4 of a negative size", lambda: PROTO2 + b"\x8b\xff\xff\xff\xff.")
damaged("LONG1 of 255 bytes", lambda: PROTO2 + b"\x8a\xff" + b"\x7f" * 255 + b".")
damaged("a decimal number of a megabyte", lambda: b"(I" + b"9" * (1 << 20) + b"\nl.")
damaged("a text that claims 2^63 bytes", lambda: b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.")
damaged("a text that claims 4 GB", lambda: PROTO2 + b"X\xff\xff\xff\xffabc.")
damaged("bytes that claim 2^64-1", lambda: b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.")
damaged("a bytearray that claims 2^62", lambda: b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"abc.")
damaged("a frame that claims 2^63", lambda: b"\x80\x04\x95" + (2**63).to_bytes(8, "little") + b"}.")
damaged("a frame longer than the file", lambda: b"\x80\x04\x95" + (100).to_bytes(8, "little") + b"}.")
damaged("a place in the memo of 2^31", lambda: PROTO2 + b"}r\xff\xff\xff\x7f.")
damaged("a place in the memo that is empty", lambda: PROTO2 + b"h\5.")
damaged("nothing on the stack", lambda: PROTO2 + b".")
damaged("no mark", lambda: PROTO2 + b"NNt.")
damaged("a tuple of too few", lambda: PROTO2 + b"N\x87.")
damaged("items for no list", lambda: PROTO2 + b"N(NNe.")
damaged("a key without a value", lambda: PROTO2 + b"}(K\x01u.")
damaged("items for a class", lambda: PROTO2 + b"ccollections\nOrderedDict\nK\x01K\x02s.")
damaged("protocol 6", lambda: b"\x80\x06}.")
damaged("an opcode that is none", lambda: PROTO2 + b"\xf0.")
damaged("no end", lambda: PROTO2 + b"}" * 1000)
damaged("a text that is not UTF-8", lambda: PROTO2 + b"}X\x02\0\0\0\xff\xfeNs.")
damaged("a name without an end", lambda: PROTO2 + b"c" + b"a" * 100_000 + b".")
damaged("a name of 300 characters", lambda: PROTO2 + b"c" + b"a" * 300 + b"\nb\n.")
damaged("a name that is a number", lambda: b"\x80\x04K\x01K\x02\x93.")
damaged("names with a line feed and escapes", lambda: state_dict() [:-2] + text("a\n\x1b[2Jb") + b"K\x01u.")  # fmt: skip
damaged("slices that are nowhere", lambda: pickled({"w": 1, "UnpackBigParamInfor@@": {"w": {"OriginShape": (2,), "slices": ["a"]}}}))  # fmt: skip
damaged("slices that are a number", lambda: pickled({"w": 1, "UnpackBigParamInfor@@": 3}))
damaged("slices of a shape of 10^12", lambda: pickled({"a": np.zeros(3), "UnpackBigParamInfor@@": {"w": {"OriginShape": (10**12,), "slices": ["a"]}}}))  # fmt: skip

# PyTorch's tensors


def torch_tensor(
    *,
    shape: bytes = b"K\x04\x85",
    strides: bytes = b"K\x01\x85",
    offset: bytes = b"K\x00",
    storage: bytes = b"",
    data: bytes = bytes(16),
    repeat: int = 1,
) -> bytes:
    """An archive with a tensor whose parts are any opcodes."""
    identity = storage or torch_storage()
    parts = identity + b"q\5" + offset + shape + strides + b"\x89NtR"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + parts + b"q\6"
    return torch_pickle(state_dict(tensor, *[b"h\6"] * (repeat - 1)), data_0=data)


def torch_storage(key: bytes = text("0"), size: bytes = b"K\x04", kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    return b"(" + text("storage") + kind + key + text("cpu") + size + b"tQ"


zero = b"K\x00"
damaged("10^12 elements with stride 0", lambda: torch_tensor(shape=integer(10**12) + b"\x85", strides=zero + b"\x85"))
damaged("10^6 x 10^6 elements with stride 0", lambda: torch_tensor(shape=integer(10**6) * 2 + b"\x86", strides=zero * 2 + b"\x86"))  # fmt: skip
damaged("overlapping strides", lambda: torch_tensor(shape=b"K\x03K\x02\x86", strides=b"K\x01K\x01\x86"))
damaged("a negative stride", lambda: torch_tensor(strides=b"J\xff\xff\xff\xff\x85"))
damaged("a negative offset", lambda: torch_tensor(offset=b"J\xff\xff\xff\xff"))
damaged("an offset beyond", lambda: torch_tensor(offset=b"K\x01"))
damaged("an offset of 2^62", lambda: torch_tensor(offset=integer(2**62)))
damaged("a stride of 2^62", lambda: torch_tensor(strides=integer(2**62) + b"\x85"))
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
damaged("bytes without a type", lambda: torch_tensor(storage=torch_storage(size=b"K\x10", kind=b"ctorch.storage\nUntypedStorage\n")))  # fmt: skip
damaged("a tensor of a number", lambda: torch_tensor(storage=b"K\x01"))
damaged("a tensor of nothing", lambda: torch_pickle(pickled(Call("torch._utils", "_rebuild_tensor_v2"))))
damaged("a parameter of nothing", lambda: torch_pickle(pickled(Call("torch._utils", "_rebuild_parameter", 1, 2, 3))))
damaged("a persistent id that is a list", lambda: torch_pickle(PROTO2 + b"]Q."))
damaged("a tensor of 4 MB, named 1000 times", lambda: torch_tensor(shape=integer(1 << 20) + b"\x85", storage=torch_storage(size=integer(1 << 20)), data=bytes(1 << 22), repeat=1000))  # fmt: skip
damaged("150,000 tensors in one storage", lambda: torch_pickle(PROTO2 + torch_storage() + b"q\5ctorch._utils\n_rebuild_tensor_v2\nq\6(h\5K\0K\4\x85K\1\x85\x89Ntq\7" + b"h\6h\7R" * 150_000 + b".", data_0=bytes(16)))  # fmt: skip
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
    with zipfile.ZipFile(stream, "w") as archive:
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
        struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), 6, 0, 0, 0, 0, 0, 0)
        + b"%06d" % i
        for i in range(count)
    )  # fmt: skip
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(records), len(local), 0)
    return local + records + end


damaged("an entry of 4 GB", lambda: zip_with(put("<II", 20, 2**32 - 2, 2**32 - 2)))
damaged("an entry with two sizes", lambda: zip_with(put("<I", 24, 10**9)))
damaged("an entry beyond the end", lambda: zip_with(put("<I", 42, 2**31)))
damaged("an entry in another's middle", lambda: zip_with(put("<I", 42, 3)))
damaged("an entry with the checksum of another", lambda: zip_with(put("<I", 16, 0)))
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
damaged("content that claims 2^60 bytes", lambda: good_value + value(b"\x08\x01" + field(2, b"Float32") + b"\x1a" + varint(2**60)))  # fmt: skip
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
damaged("70,000 keys", lambda: safetensors({f"{i:05}": {"dtype": "U8", "shape": [], "data_offsets": [i, i + 2]} for i in range(70_000)}))  # fmt: skip
damaged("lists within lists, a million deep", lambda: safetensors(b"{" + b"[" * 1_000_000))
damaged("four million zeros", lambda: safetensors(b'{"a":[' + b"0," * 2_000_000 + b"0]}"))
damaged("a million empty lists", lambda: safetensors(b'{"a":[' + b"[]," * 1_300_000 + b"0]}"))
damaged("a number of a million digits", lambda: safetensors(b'{"a":' + b"9" * 1_000_000 + b"}"))
damaged("a name of 3 MB", lambda: safetensors({"a" * 3_000_000: entry}))
damaged("a key twice", lambda: safetensors(b'{"w":' + json.dumps(entry).encode() + b',"w":' + json.dumps(entry).encode() + b"}"))  # fmt: skip
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
        files[f"paddle, protocol {protocol}"] = pickle.dumps({"model": copy.copy(tensors), "epoch": 3}, protocol)
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
