"""CIFAR's batches are pickles: those that want to run code, or are odd, are refused and leave nothing behind."""

import copyreg
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.cifar_files import (
    make_batch,
    python_batch,
    write_cifar,
)
from tests.util.data.test_cifar import make_archive
from util.data.cifar import load_cifar
from util.data.plain_pickle import read_pickle
from util.errors import DataError, UntrustedFileError, UserError

# --- pickles that want to run code


def _global(module: str, name: str, arguments: bytes) -> bytes:
    """A pickle that calls module.name(*arguments)."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"R."


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _short(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def _payloads(canary: Path) -> dict[str, bytes]:
    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    one_shell, one_code = b"(" + _text(shell) + b"t", b"(" + _text(code) + b"t"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt"
    return {
        "os.system": _global("os", "system", one_shell),
        "posix.system": _global("posix", "system", one_shell),
        "subprocess": _global("subprocess", "getoutput", one_shell),
        "eval": _global("builtins", "eval", one_code),
        "eval of Python 2": _global("__builtin__", "eval", one_code),
        "exec": _global("builtins", "exec", one_code),
        "getattr": _global("builtins", "getattr", b"(" + _text(shell) + _text("upper") + b"t"),
        "import": _global("builtins", "__import__", b"(" + _text("os") + b"t"),
        "importlib": _global("importlib", "import_module", b"(" + _text("antigravity") + b"t"),
        "protocol 4": b"\x80\x04" + _short("os") + _short("system") + b"\x93" + _text(shell) + b"\x85R.",
        "dotted name": b"\x80\x04" + _short("numpy") + _short("ctypeslib.os.system") + b"\x93" + one_shell + b"R.",
        "dotted stand-in": b"\x80\x04" + _short("numpy") + _short("ndarray.tofile") + b"\x93" + one_shell + b"R.",
        "numpy.load": _global("numpy", "load", one_shell),
        "numpy's testing": _global("numpy.testing._private.utils", "runstring", b"(" + _text(code) + b"}t"),
        "operator": _global("operator", "attrgetter", b"(" + _text("system") + b"t"),
        "functools": _global("functools", "partial", one_shell),
        "copyreg": _global("copyreg", "_reconstructor", b"(cos\nsystem\ncbuiltins\nobject\nNt"),
        "INST": b"(" + _text(shell) + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + _text(shell) + b"o.",
        "in a dict's value": b"\x80\x02}U\x04datacos\nsystem\n(" + _text(shell) + b"tRs.",
        "as an array's type": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\nK\x00\x85U\x01btR.",
        "an array's values": b"\x80\x02" + array + b"R(K\x01K\x00\x85cos\nsystem\n(" + _text(shell) + b"tRtb.",
        "codec": _global("_codecs", "lookup", b"(" + _text("rot13") + b"t"),
    }  # fmt: skip


PAYLOADS = sorted(_payloads(Path("x")))


@pytest.mark.parametrize("name", PAYLOADS)
def test_pickle_that_asks_for_code_is_refused(name: str, tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar-10-batches-py")
    canary = tmp_path / "canary"
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(_payloads(canary)[name])
    for data_dir in (tmp_path, make_archive(tmp_path, "cifar-10-batches-py")):
        with pytest.raises(UntrustedFileError, match=r"test_batch asks for '.*refused") as caught:
            load_cifar(data_dir, train=False)
        assert caught.value.exit_code == 77
        assert "\n" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["os.system", "eval", "protocol 4", "in a dict's value", "INST"])
def test_negative_control_those_pickles_do_run_code(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(_payloads(canary)[name])
    assert canary.exists()


@pytest.mark.parametrize("payload", [
    b"\x80\x02cnumpy\nndarray\n}U\x08__init__U\x01xsb.",  # BUILD: attributes for a class
    b"\x80\x02cnumpy\nndarray\nN}U\x0c__setstate__U\x01xs\x86b.",
    b"\x80\x02c_codecs\nencode\nN}U\x07__new__U\x01xs\x86b.",
    b"\x80\x02c__builtin__\nbytes\nK\x05\x85R.",
    b"\x80\x02cbuiltins\nbytes\nN}U\x07__new__U\x01xs\x86b.",
    b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
    b"\x80\x02cnumpy\nndarray\n)\x81}U\x05stateK\x01sb.",  # an array without a state
    b"\x80\x02}U\x04datacnumpy\nndarray\n)\x81s.",
    b"\x80\x02U\x03abcQ.",  # a persistent id
    b"P1\n.",
    b"\x80\x02\x82\xf0.",  # a number of the registry of extensions
    b"\x80\x05\x97.",  # a buffer from outside
    b"\x80\x09.",
    b"\x80\x02" + b"(" * 100_000 + b".",
])  # fmt: skip
def test_other_odd_pickles_are_damage_and_leave_nothing_behind(payload: bytes) -> None:
    with pytest.raises(DataError, match=r"^x: "):
        read_pickle(payload, "x")
    batch = make_batch(1, 2, 4)
    np.testing.assert_array_equal(read_pickle(python_batch(batch, fine=False), "x")["data"], batch.rows())


def test_a_warm_registry_of_extensions_gives_nothing(tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 0xF1)
    try:
        with pytest.raises(UserError):
            read_pickle(b"\x80\x02\x82\xf1" + b"(" + _text(f"touch {tmp_path / 'canary'}") + b"tR.", "x")
    finally:
        copyreg.remove_extension("os", "system", 0xF1)
    assert not (tmp_path / "canary").exists()
