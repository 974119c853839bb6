"""The files that tests write have the structure of those that PyTorch, Paddle and MindSpore write."""

import pickle
import pickletools
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.util.weights.test_formats import GOLDEN, GRID, TENSORS, assert_same
from tests.weights_files import write_mindspore, write_paddle, write_torch, write_zip
from util.errors import DamagedFileError
from util.weights.formats import read_raw


def structure(pickled: bytes) -> list[tuple[str, Any]]:
    """A pickle's opcodes and short arguments, without the numbers of the memo."""
    return [
        (opcode.name, None if "PUT" in opcode.name or "GET" in opcode.name else argument)
        for opcode, argument, _ in pickletools.genops(pickled)
        if opcode.name not in ("FRAME",)
    ]


def test_the_tests_own_paddle_files_have_the_pickles_of_paddle(tmp_path: Path) -> None:
    import paddle

    for protocol in (2, 3, 4):
        tensor = paddle.to_tensor(GRID)
        tensor.name = "weight.w_0"
        for wrap in (None, "model"):
            content = {"model": {"weight": tensor}, "epoch": 3} if wrap else {"weight": tensor}
            paddle.save(content, str(tmp_path / "real"), protocol=protocol)
            write_paddle(
                tmp_path / "own", {"weight": GRID}, wrap=wrap, beside={"epoch": 3} if wrap else None, protocol=protocol
            )
            real, own = (structure((tmp_path / name).read_bytes()) for name in ("real", "own"))
            assert Counter(own) == Counter(real)


def test_the_tests_own_torch_files_have_the_structure_of_pytorchs(tmp_path: Path) -> None:
    tensors = {"plain": GRID, "parameter": GRID[0], "number": np.array(7), "flags": np.array([True, False])}
    write_torch(tmp_path / "own", tensors, wrap="state_dict")
    with zipfile.ZipFile(GOLDEN / "torch_checkpoint.pth") as real, zipfile.ZipFile(tmp_path / "own") as own:
        kinds = [{Path(name).parent.name == "data" or Path(name).name for name in a.namelist()} for a in (real, own)]
        assert kinds[1] <= kinds[0]
        stored = [{(i.compress_type, i.file_size == i.compress_size) for i in a.infolist()} for a in (real, own)]
        assert stored[0] == stored[1]
        pickles = [structure(a.read(next(n for n in a.namelist() if n.endswith("data.pkl")))) for a in (real, own)]
    assert set(names(pickles[1])) <= set(names(pickles[0]))
    assert "torch._utils _rebuild_tensor_v2" in names(pickles[1])
    # the first tensor of each, opcode by opcode
    first = [p[p.index(("GLOBAL", "torch._utils _rebuild_tensor_v2")) :] for p in pickles]
    count = first[0].index(("REDUCE", None), first[0].index(("REDUCE", None)) + 1)
    assert first[1][:count] == first[0][:count]


def names(pickled: list[tuple[str, Any]]) -> list[str]:
    return [argument for opcode, argument in pickled if opcode == "GLOBAL"]


def test_the_tests_own_mindspore_files_are_those_of_mindspore(tmp_path: Path) -> None:
    write_mindspore(tmp_path / "own", {"plain": GRID}, crc=True)
    assert (tmp_path / "own").read_bytes() == (GOLDEN / "mindspore_crc.ckpt").read_bytes()


def test_mindspores_tensors_in_slices_and_its_checksum(tmp_path: Path) -> None:
    write_mindspore(tmp_path / "sliced", TENSORS, slice_bytes=16)
    assert_same(read_raw(tmp_path / "sliced").tensors, TENSORS)
    content = bytearray((GOLDEN / "mindspore_crc.ckpt").read_bytes())
    content[60] ^= 1
    (tmp_path / "flipped").write_bytes(content)
    with pytest.raises(DamagedFileError, match="checksum"):
        read_raw(tmp_path / "flipped")


def test_the_checksum_of_a_torch_entry_is_verified(tmp_path: Path) -> None:
    write_torch(tmp_path / "weights", TENSORS)
    content = bytearray((tmp_path / "weights").read_bytes())
    content[content.index(TENSORS["blocks.0.bias"].tobytes()) + 5] ^= 1
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"'archive/data/1' does not have the checksum"):
        read_raw(tmp_path / "weights")


def test_big_endian_pytorch_files_are_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "weights", {"data.pkl": pickle.dumps({}, 2), "byteorder": b"big"})
    with pytest.raises(DamagedFileError, match="byte order b'big', expected little"):
        read_raw(tmp_path / "weights")
