"""Pickles that want to run code, fill the memory or never end, by name; what other hostile files are built with.

Every case is a function that returns a file's bytes. `REFUSED` ask for something outside of the allowed names (exit
code 77), `DAMAGED` are not what their format promises (65); tests/hostile_files.py adds archives and other formats.
"""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.weights_files import Name, NamePickler

EXTENSION_CODES = {0x82: 240, 0x83: 2400, 0x84: 240000}
COMMAND = "touch canary"  # in the folder where the files are read

Case = Callable[[], bytes]
REFUSED: dict[str, Case] = {}
DAMAGED: dict[str, Case] = {}

STOP, PROTO2 = b".", b"\x80\x02"
ARRAY = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"  # an array without values


def refused(name: str, case: Case) -> None:
    assert name not in REFUSED
    REFUSED[name] = case


def damaged(name: str, case: Case) -> None:
    assert name not in DAMAGED
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
damaged(
    "tuples of a long list, again and again",
    lambda: PROTO2 + b"cbuiltins\ntuple\nq\0](" + b"N" * 50_000 + b"eq\1" + b"h\0h\1\x85R" * 50_000 + b".",
)
damaged("another encoding", lambda: pickled({"w": Call("_codecs", "encode", "a" * 1000, "zlib_codec")}))
damaged("a call of numpy.ndarray", lambda: pickled({"w": Call("numpy", "ndarray", (10**12,))}))
damaged(
    "an empty array of 10^12",
    lambda: pickled({"w": Call("numpy.core.multiarray", "_reconstruct", Name("numpy", "ndarray"), (10**12,), b"b")}),
)
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
damaged(
    "10 MB in one array, named 1000 times",
    lambda: state_dict(
        array(integer(2_500_000) + b"\x85", b"B\x80\x96\x98\0" + bytes(10_000_000)) + b"q\7", *[b"h\7"] * 1000
    ),
)


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
damaged(
    "dicts that hold themselves 2^10000 times",
    lambda: PROTO2 + b"}q\0" + b"}(K\1h\0K\2h\0uq\0" * 10_000 + b"0}" + text("model") + b"h\0s.",
)
damaged("a list within a list, a million deep", lambda: PROTO2 + b"]" * 1_000_000 + b"a" * 999_999 + b".")
damaged("a list within a list, 190,000 deep", lambda: PROTO2 + b"]" * 190_000 + b"a" * 189_999 + b".")
damaged("a tuple within a tuple, 390,000 deep", lambda: PROTO2 + b")" + b"\x85" * 390_000 + b".")
damaged("a dict within a dict, 90,000 deep", lambda: PROTO2 + b"}K\1" * 90_000 + b"N" + b"s" * 90_000 + b".")
damaged("marks, 390,000 deep", lambda: PROTO2 + b"(" * 390_000 + b".")
damaged("marks within marks, and tuples of them", lambda: PROTO2 + b"(" * 190_000 + b"t" * 189_999 + b".")
damaged("a deep tuple as a key", lambda: PROTO2 + b"})" + b"\x85" * 300_000 + b"Ns.")
damaged("a list as a key", lambda: PROTO2 + b"}]Ns.")
damaged("390,000 empty dicts", lambda: PROTO2 + b"](" + b"}" * 390_000 + b"e.")
damaged("199,000 dicts in the memo", lambda: b"\x80\x04" + b"}\x94" * 199_000 + b".")
damaged("two million steps", lambda: PROTO2 + b"N0" * 1_000_000 + b".")
damaged(
    "keys that collide",
    lambda: (
        PROTO2
        + b"}("
        + b"".join(b"\x8a\x11" + (i * (2**61 - 1)).to_bytes(17, "little") + b"N" for i in range(40_000))
        + b"u."
    ),
)
damaged(
    "keys of 8 bytes that collide",
    lambda: PROTO2 + b"}(" + b"".join(integer(i % 4 * (2**61 - 1)) + b"N" for i in range(50_000)) + b"u.",
)
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
damaged("names with a line feed and escapes", lambda: state_dict()[:-2] + text("a\n\x1b[2Jb") + b"K\x01u.")
damaged(
    "slices that are nowhere",
    lambda: pickled({"w": 1, "UnpackBigParamInfor@@": {"w": {"OriginShape": (2,), "slices": ["a"]}}}),
)
damaged("slices that are a number", lambda: pickled({"w": 1, "UnpackBigParamInfor@@": 3}))
damaged(
    "slices of a shape of 10^12",
    lambda: pickled({"a": np.zeros(3), "UnpackBigParamInfor@@": {"w": {"OriginShape": (10**12,), "slices": ["a"]}}}),
)

damaged("a shape without an end", lambda: bomb(b"cnumpy._core.multiarray\n_reconstruct\n0" + array(b"h\0")))
damaged("a size without an end", lambda: bomb(array(b"h\0\x85")))
damaged("a shape, 190,000 deep", lambda: PROTO2 + deep() + b"q\0" + array(b"h\0") + b".")
damaged("a type without an end", lambda: bomb(array(b"K\1\x85", kind=b"cnumpy\ndtype\nh\0N\x86R")))
damaged("a tuple without an end as a pair", lambda: bomb(b"}" + text("w") + text("n") + b"h\0\x86s"))
damaged("an encoding without an end", lambda: bomb(b"c_codecs\nencode\n" + text("a") + b"h\0\x86R"))
damaged("a slice, 190,000 deep", lambda: sliced(deep()))
damaged("slices without an end", lambda: bomb(b"}" + text("UnpackBigParamInfor@@") + b"}K\1h\0ss"))
damaged("a shape of zero by 2^62", lambda: state_dict(array(b"K\0" + integer(2**62) + b"\x86", b"C\0")))
damaged("a shape of zero by 2^47 by 2^47", lambda: state_dict(array(b"K\0" + integer(2**47) * 2 + b"\x87", b"C\0")))
damaged("a name with control characters", lambda: pickled({"a\n\x1b[2J": np.zeros(3)}))
damaged("a name that cannot be encoded", lambda: pickled({"a\ud800": np.zeros(3)}))


def bomb(content: bytes) -> bytes:
    """A pickle with a tuple in place 0 of the memo whose text would have 2^10000 characters."""
    return PROTO2 + b")q\0" + b"0h\0h\0\x86q\0" * 10_000 + content + b"."


def deep() -> bytes:
    return b")" + b"\x85" * 190_000


def sliced(name: bytes) -> bytes:
    """A pickle of an array cut in slices, one of which has any name."""
    how = b"}" + text("slices") + b"](" + name + b"es" + text("OriginShape") + b"K\3\x85s"
    return PROTO2 + b"}" + text("UnpackBigParamInfor@@") + b"}" + text("w") + how + b"ss."
