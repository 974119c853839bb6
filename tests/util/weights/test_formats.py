"""Files of other projects: what is recognised, and that each value comes out as it went in."""

import argparse
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reference import tensor as recipe
from tests.weights_files import write_mindspore, write_paddle, write_safetensors, write_torch
from util.errors import DamagedFileError, MissingInputError, UntrustedFileError, UserError, WeightsError
from util.weights.formats import detect_format, read_raw

GOLDEN = Path(__file__).parents[2] / "golden"
GRID = np.arange(24, dtype=np.float32).reshape(4, 6)
EIGHTHS = GRID / 8  # in float16 and bfloat16 without loss

RANDOM = np.random.default_rng(0)
TENSORS = {
    "blocks.0.weight": RANDOM.normal(size=(4, 3, 2)).astype(np.float32),
    "blocks.0.bias": RANDOM.normal(size=300).astype(np.float32),
    "scalar": np.array(2.5, np.float32),
    "num_batches_tracked": np.array(3),
    "flags": np.array([True, False]),
}
AVERAGE = {name: np.asarray(tensor + 1) for name, tensor in TENSORS.items() if tensor.dtype == np.float32}
BESIDE = {
    "epoch": 3,
    "args": argparse.Namespace(lr=0.1, names=["a", (1, None)]),
    "optimizer": {"m": GRID, "s": {"a": 1}},
}


def assert_same(found: dict[str, np.ndarray] | None, expected: dict[str, np.ndarray]) -> None:
    assert found is not None
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)


def test_a_checkpoint_written_by_pytorch() -> None:
    """Views, halves, bfloat16, doubles, parameters with attributes; an average, an optimizer, a Namespace beside."""
    weights = read_raw(GOLDEN / "torch_checkpoint.pth")
    assert weights.format == "torch"
    assert_same(
        weights.tensors,
        {
            "plain": GRID,
            "transposed": GRID.T,
            "strided": GRID[1:3, ::2],
            "half": EIGHTHS,
            "brain": EIGHTHS,
            "double": EIGHTHS,
            "number": np.array(7),
            "parameter": GRID[0],
            "marked": GRID[0],
            "empty": np.zeros((0, 3), np.float32),
            "flags": np.array([True, False]),
            "unsigned": np.array([1, 65535], np.uint16),
        },
    )
    assert_same(weights.averaged, {"plain": GRID + 1})


def test_checkpoints_written_by_mindspore() -> None:
    weights = read_raw(GOLDEN / "mindspore_types.ckpt")
    assert (weights.format, weights.averaged) == ("mindspore", None)
    assert_same(
        weights.tensors,
        {
            "plain": GRID,
            "half": EIGHTHS,
            "brain": EIGHTHS,
            "scalar": np.array(2.5, np.float32),
            "number": np.arange(3),
            "epoch_num": np.array(3),
            "flag": np.array(True),
        },
    )
    assert_same(read_raw(GOLDEN / "mindspore_crc.ckpt").tensors, {"plain": GRID})


def test_a_model_saved_by_mindcv() -> None:
    """Its values follow the recipe of `tests.reference`, in the official names."""
    weights = read_raw(GOLDEN / "mindcv_convit_d48.ckpt")
    assert (weights.format, len(weights.tensors)) == ("mindspore", 194)
    assert all(tensor.dtype == np.float32 for tensor in weights.tensors.values())
    for name, official in (("cls_token", "cls_token"), ("blocks.3.norm1.gamma", "blocks.3.norm1.weight")):
        found = weights.tensors[name]
        np.testing.assert_array_equal(found, recipe(official, found.shape))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_files_written_by_paddle(tmp_path: Path, protocol: int) -> None:
    """A state dict; CvT-paddle's checkpoint of one, an average, AdamW's state, a scheduler's and a scaler's."""
    import paddle

    model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4), paddle.nn.Linear(4, 2))
    model[0].weight.set_value(paddle.arange(108, dtype="float32").reshape([4, 3, 3, 3]))
    optimizer = paddle.optimizer.AdamW(paddle.optimizer.lr.CosineAnnealingDecay(0.1, 10), parameters=model.parameters())
    model[0](paddle.ones([1, 3, 6, 6])).sum().backward()
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    optimizer.step()
    after = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    checkpoint = {
        "model": model.state_dict(),
        "model_ema": {name: paddle.to_tensor(array) for name, array in expected.items()},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, aa="rand", betas=[0.9, 0.999]),
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": paddle.to_tensor([65536.0]), "incr_ratio": 2.0, "decr_count": 0, "use_dynamic": True},
    }
    paddle.save(checkpoint, str(tmp_path / "checkpoint-best.pd"), protocol=protocol)
    paddle.save(model.state_dict(), str(tmp_path / "model.pdparams"), protocol=protocol)
    nested, plain = read_raw(tmp_path / "checkpoint-best.pd"), read_raw(tmp_path / "model.pdparams")
    assert (nested.format, plain.format, plain.averaged) == ("paddle", "paddle", None)
    assert_same(nested.tensors, after)
    assert_same(nested.averaged, expected)
    assert_same(plain.tensors, after)


def test_element_types_and_layouts_written_by_paddle(tmp_path: Path) -> None:
    import paddle

    square = paddle.to_tensor(EIGHTHS)
    saved = {
        "half": square.astype("float16"),
        "brain": square.astype("bfloat16"),
        "double": square.astype("float64"),
        "number": paddle.to_tensor(7),
        "empty": paddle.zeros([0, 3]),
        "columns": np.asfortranarray(GRID),
        "swapped": GRID.astype(">f4"),
    }
    for protocol in (2, 4):
        paddle.save(saved, str(tmp_path / "types.pdparams"), protocol=protocol)
        expected: dict[str, np.ndarray] = {"half": EIGHTHS, "brain": EIGHTHS, "double": EIGHTHS, "number": np.array(7)}
        expected |= {"empty": np.zeros((0, 3), np.float32), "columns": GRID, "swapped": GRID}
        assert_same(read_raw(tmp_path / "types.pdparams").tensors, expected)


def test_arrays_that_paddle_cut_in_slices(tmp_path: Path) -> None:
    """Protocol 2 and 3 cut above 1 GB; so would this file be written if that were 40 bytes."""
    parts = {f"weight@@.{i}": GRID.ravel()[10 * i : 10 * (i + 1)] for i in range(3)}
    slices = {"weight": {"OriginShape": GRID.shape, "slices": list(parts)}}
    saved = {"bias": GRID[0], **parts, "UnpackBigParamInfor@@": slices, "StructuredToParameterName@@": {}}
    (tmp_path / "big.pdparams").write_bytes(pickle.dumps(saved, 2))
    assert_same(read_raw(tmp_path / "big.pdparams").tensors, {"bias": GRID[0], "weight": GRID})


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (write_torch, "torch"),
        (write_paddle, "paddle"),
        (write_safetensors, "safetensors"),
        (write_mindspore, "mindspore"),
    ],
)
def test_each_format_is_recognised_by_content_and_read_exactly(
    tmp_path: Path, write: Callable[[Path, dict[str, np.ndarray]], None], kind: str
) -> None:
    """Whatever the file is called."""
    for name in ("weights.pth", "weights.ckpt", "weights"):
        write(tmp_path / name, TENSORS)
        assert detect_format(tmp_path / name) == kind
        weights = read_raw(tmp_path / name)
        assert (weights.format, weights.averaged) == (kind, None)
        assert_same(weights.tensors, TENSORS)


@pytest.mark.parametrize("write", [write_torch, write_safetensors, write_mindspore])
@pytest.mark.parametrize("floats", ["F16", "BF16", "F64"])
def test_other_floating_point_comes_out_as_float32(tmp_path: Path, write: Callable[..., None], floats: str) -> None:
    tensors: dict[str, np.ndarray] = {"weight": EIGHTHS, "scalar": np.array(2.5, np.float32)}
    write(tmp_path / "weights", tensors, floats=floats)
    assert_same(read_raw(tmp_path / "weights").tensors, tensors)


@pytest.mark.parametrize("write", [write_torch, write_paddle])
@pytest.mark.parametrize(("key", "average"), [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "ema")])
def test_the_state_dict_and_its_average_are_found(
    tmp_path: Path, write: Callable[..., None], key: str, average: str
) -> None:
    write(tmp_path / "weights", TENSORS, wrap=key, beside={**BESIDE, average: AVERAGE})
    weights = read_raw(tmp_path / "weights")
    assert_same(weights.tensors, TENSORS)
    assert_same(weights.averaged, AVERAGE)


def test_a_state_dict_within_a_module_and_an_average_alone(tmp_path: Path) -> None:
    write_torch(tmp_path / "inner", {}, beside={"model": {"module": TENSORS, "step": 3}})
    assert_same(read_raw(tmp_path / "inner").tensors, TENSORS)
    write_torch(tmp_path / "average", {}, beside={"model_ema": AVERAGE, "epoch": 3})
    weights = read_raw(tmp_path / "average")
    assert_same(weights.tensors, AVERAGE)
    assert_same(weights.averaged, AVERAGE)


def test_a_models_name_an_accuracy_and_a_generators_state_are_no_weights(tmp_path: Path) -> None:
    """microsoft/CvT writes its model's name as `model`."""
    beside = {"model": "cls_cvt", "perf": np.array(81.6), "rng": np.arange(8, dtype=np.uint8)}
    write_torch(tmp_path / "weights", TENSORS, wrap="state_dict", beside=beside)
    assert_same(read_raw(tmp_path / "weights").tensors, TENSORS)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"model": TENSORS, "state_dict": TENSORS}, "'state_dict', 'model' could each be the weights"),
        ({"model": TENSORS, "ema": AVERAGE, "model_ema": AVERAGE}, "'model_ema', 'ema' could each be the weights"),
        ({"model": TENSORS, "head.weight": GRID}, "'model', 'head.weight' could each be the weights"),
        ({"generator": TENSORS, "epoch": 3}, "holds no weights: .* got 'generator', 'epoch'"),
        ({"weight": GRID, "names": ["a"]}, "holds 'names', an entry of type list, among the weights"),
        ({"model": {"weight": GRID, "step": 3}}, "model holds 'step', an entry of type int, among the weights"),
        ({"model": {3: GRID}}, "model holds '3'"),
        ({b"weight": GRID, "weight": GRID}, "the file holds 'weight', an array, among the weights"),
        (GRID, "holds an array, expected tensors by name"),
        ([GRID], "holds an entry of type list, expected tensors by name"),
        ({}, "holds no weights"),
    ],
)
def test_what_is_ambiguous_or_no_state_dict_is_named(tmp_path: Path, content: Any, text: str) -> None:
    (tmp_path / "weights").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=text):
        read_raw(tmp_path / "weights")


def test_refused_formats_say_in_one_line_what_to_do(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar.pth", "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    (tmp_path / "pointer.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (tmp_path / "text").write_text("accuracy 81.6")
    (tmp_path / "empty").write_bytes(b"")
    np.savez(tmp_path / "arrays.npz", weight=GRID)
    cases = [
        (tmp_path / "tar.pth", WeightsError, "before 1.6.*torch.save"),
        (GOLDEN / "torch_legacy.pth", WeightsError, "before 1.6.*torch.save"),
        (GOLDEN / "mindspore_encrypted.ckpt", WeightsError, "encrypted"),
        (tmp_path / "page.pth", WeightsError, "a page of HTML"),
        (tmp_path / "pointer.bin", WeightsError, "git lfs pull"),
        (tmp_path / "model.h5", WeightsError, "HDF5"),
        (tmp_path / "text", WeightsError, "known format .safetensors, paddle, torch, mindspore."),
        (tmp_path / "empty", DamagedFileError, "is empty"),
        (tmp_path / "arrays.npz", DamagedFileError, "0 entries <folder>/data.pkl"),
    ]
    for path, error, text in cases:
        with pytest.raises(error, match=text) as info:
            read_raw(path)
        assert type(info.value) is error
        assert str(info.value).startswith(f"{path}: ")
        assert "\n" not in str(info.value)


def test_what_is_no_file_is_a_missing_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        for read in (read_raw, detect_format):
            with pytest.raises(MissingInputError, match=r"no such file|is not a file"):
                read(path)


def test_errors_keep_their_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "evil").write_bytes(pickle.dumps(os.system))
    (tmp_path / "cut").write_bytes(pickle.dumps({"weight": GRID})[:-20])
    codes = {}
    for name in ("evil", "cut", "none"):
        with pytest.raises(UserError) as info:
            read_raw(tmp_path / name)
        codes[name] = info.value.exit_code
    assert codes == {"evil": 77, "cut": 65, "none": 66}
    with pytest.raises(UntrustedFileError, match=r"'posix.system'.*refused; if you trust it, .* safetensors=True"):
        read_raw(tmp_path / "evil")


def test_arrays_do_not_depend_on_the_file_any_more(tmp_path: Path) -> None:
    for write in (write_torch, write_paddle, write_safetensors, write_mindspore):
        path = tmp_path / "weights"
        write(path, TENSORS)
        weights = read_raw(path)
        with open(path, "r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.truncate(1)
        assert_same(weights.tensors, TENSORS)


def test_a_storage_that_tensors_share_is_read_for_each(tmp_path: Path) -> None:
    """Tied weights; but a small storage cannot be named so often that it fills the memory."""
    twice = {"a": GRID, "b": GRID}
    (tmp_path / "tied").write_bytes(pickle.dumps(twice))
    assert_same(read_raw(tmp_path / "tied").tensors, twice)
    large = np.zeros(1 << 20, np.float32)
    (tmp_path / "bomb").write_bytes(pickle.dumps({f"weight{i}": large for i in range(1000)}))
    with pytest.raises(DamagedFileError, match="claim 4194304000 bytes"):
        read_raw(tmp_path / "bomb")


def test_reading_takes_the_memory_of_the_weights_once(tmp_path: Path) -> None:
    """Not counted: pages of the file, which the system can drop. An optimizer's state is not read at all."""
    tensors = {f"weight{i}": np.zeros((1024, 1024), np.float32) for i in range(4)}
    size = sum(tensor.nbytes for tensor in tensors.values())
    for write in (write_torch, write_paddle, write_safetensors, write_mindspore):
        path = tmp_path / write.__name__
        if write in (write_torch, write_paddle):
            write(path, tensors, wrap="model", beside={"optimizer": tensors})
        else:
            write(path, tensors)
        tracemalloc.start()
        weights = read_raw(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(weights.tensors) == 4
        assert size <= peak < 1.1 * size, write.__name__


def test_names_of_numpy_before_2_and_texts_of_python_2(tmp_path: Path) -> None:
    """What PaddleClas's published files hold."""
    old = pickle.dumps({"weight": GRID}, 2).replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")
    (tmp_path / "old").write_bytes(old)
    assert_same(read_raw(tmp_path / "old").tensors, {"weight": GRID})
    data = GRID.astype("<f4").tobytes()
    older = (
        b"\x80\x02}U\x06weightcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01K\x04K\x06\x86"
        b"cnumpy\ndtype\nU\x02f4K\0K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89"
        b"U" + bytes([len(data)]) + data + b"tbs."
    )
    assert np.array_equal(pickle.loads(older, encoding="bytes")[b"weight"], GRID)
    (tmp_path / "older").write_bytes(older)
    assert_same(read_raw(tmp_path / "older").tensors, {"weight": GRID})


def test_a_zip_archive_with_numbers_of_64_bits(tmp_path: Path) -> None:
    """As PyTorch writes above 4 GB; Python's zipfile reads the same."""
    write_torch(tmp_path / "weights", {"weight": GRID})
    content = (tmp_path / "weights").read_bytes()
    directory, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    records, position = b"", directory
    while position < end:
        fields = list(struct.unpack_from("<4sHHHHHHIIIHHHHHII", content, position))
        name = content[position + 46 : position + 46 + fields[10]]
        extra = struct.pack("<HHHHQQQ", 0x7777, 0, 1, 24, fields[9], fields[8], fields[16])
        fields[8] = fields[9] = fields[16] = 0xFFFFFFFF
        position += 46 + fields[10]
        fields[11] = len(extra)
        records += struct.pack("<4sHHHHHHIIIHHHHHII", *fields) + name + extra
    count = len(zipfile.ZipFile(tmp_path / "weights").namelist())
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(records), directory)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, directory + len(records), 1)
    last = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "wide").write_bytes(content[:directory] + records + end64 + locator + last)
    assert zipfile.ZipFile(tmp_path / "wide").testzip() is None
    assert_same(read_raw(tmp_path / "wide").tensors, {"weight": GRID})
