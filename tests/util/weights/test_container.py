"""The checkpoint file: bit-equal round trips, every damage noticed, nothing lost when writing fails; strict loading."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.checkpoints import PREPROCESS, AnyModel
from tests.containers import STATE, assert_bits_equal, some_tensors
from util import storage
from util.errors import MissingInputError, WeightsError
from util.weights import load_weights, read_weights, set_weights
from util.weights.container import (
    DamagedFileError,
    NewerFileError,
    is_container,
    read_container,
    write_container,
)  # fmt: skip

DESCRIPTION = {
    "model": {"name": "x", "num_classes": 2},
    "preprocess": PREPROCESS,
    "classes": {"folders": None, "names": ["a", "b"]},
}


def test_round_trip_is_bit_equal(saved: Path) -> None:
    container = read_container(saved)
    assert container.state == STATE
    assert set(container.tensors) == set(some_tensors())
    for name, tensor in some_tensors().items():
        assert_bits_equal(container.tensors[name], tensor)


def test_scalar_keeps_its_shape(tmp_path: Path) -> None:
    scalar = np.array(3.5, np.float32)
    write_container(tmp_path / "x.safetensors", {"scalar": scalar}, {})
    assert_bits_equal(read_container(tmp_path / "x.safetensors").tensors["scalar"], scalar)


def test_no_tensors_at_all(tmp_path: Path) -> None:
    write_container(tmp_path / "x.safetensors", {}, {"a": 1})
    container = read_container(tmp_path / "x.safetensors")
    assert (container.tensors, container.state) == ({}, {"a": 1})


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_file_mode_follows_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_container(tmp_path / "x.safetensors", some_tensors(), STATE)
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == mode


# --- damage


def _refused(path: Path, data: bytes) -> bool:
    """Whether a file with this content is refused, with an error that names it."""
    path.write_bytes(data)
    try:
        read_container(path)
    except WeightsError as error:
        return str(path) in str(error)
    return False


def test_truncations_are_noticed(saved: Path) -> None:
    data = saved.read_bytes()
    for length in np.linspace(0, len(data) - 1, 32).astype(int):
        assert _refused(saved, data[:length]), length
    assert _refused(saved, data + b"\0")
    assert not _refused(saved, data)


def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    data = saved.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(data[:8], "little")
    places = [*rng.integers(0, header, 32), *rng.integers(header, len(data), 32)]
    silently_loaded_without_the_hash = 0
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        assert _refused(saved, bytes(damaged)), place
        # Negative control: safetensors alone loads other values.
        if place >= header:
            silently_loaded_without_the_hash += bool(load_file(saved))
    assert silently_loaded_without_the_hash == 32


def test_every_bit_of_the_header_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_container(path, {"a": np.ones(1, np.float32)}, {"name": "ä"})
    data = path.read_bytes()
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << (place % 8)
        assert _refused(path, bytes(damaged)), place


def test_changed_state_is_noticed(saved: Path) -> None:
    data = saved.read_bytes()
    changed = data.replace(b'\\"epoch\\": 3', b'\\"epoch\\": 4')
    assert changed != data
    assert _refused(saved, changed)


def test_exchanged_tensors_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_container(path, {"a": np.zeros(4, np.float32), "b": np.ones(4, np.float32)}, {})
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file({"a": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}, path, metadata=metadata)
    with pytest.raises(DamagedFileError, match="sha256"):
        read_container(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones(3, np.float32)}, path)
    with pytest.raises(WeightsError, match="not a checkpoint of this project"):
        read_container(path)
    assert not is_container(path)
    path.write_bytes(b"\x80\x04\x95" + bytes(100))  # a pickle
    with pytest.raises(DamagedFileError, match="not a safetensors file"):
        read_container(path)
    for missing in (tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(MissingInputError, match=str(missing)):
            read_container(missing)


@pytest.mark.parametrize("version", ["2", "10"])
def test_newer_version_says_so(version: str, saved: Path) -> None:
    with safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
    later = metadata | {"version": version, "sha256": hashlib.sha256(b"of something else").hexdigest()}
    save_file(load_file(saved), saved, metadata=later)
    with pytest.raises(NewerFileError, match=rf"format version {version}; this code reads 1"):
        read_container(saved)


def test_a_damaged_version_is_not_taken_for_a_newer_one(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes().replace(b'"version":"1"', b'"version":"3"'))
    with pytest.raises(DamagedFileError, match=r"says format version 3, has the content of 1"):
        read_container(saved)


def test_what_the_disk_cannot_read_is_damage(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(storage, "read", fail)
    with pytest.raises(DamagedFileError, match=r"checkpoint\.safetensors: damaged: Input/output error"):
        read_container(saved)


# --- into a model


def _linear() -> paddle.nn.Layer:
    return AnyModel(paddle.nn.Linear(3, 2), paddle.nn.BatchNorm1D(2))


def _weights(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in model.state_dict().items()}


def test_set_weights_copies_every_value() -> None:
    model = _linear()
    tensors = _weights(model)
    assert set_weights(model, tensors, source="x") == []
    for name, value in model.state_dict().items():
        assert_bits_equal(value.numpy(), tensors[name])


def test_differences_are_listed_and_nothing_is_loaded() -> None:
    model = _linear()
    before = {k: v.numpy() for k, v in model.state_dict().items()}
    tensors = _weights(model)
    del tensors["1._mean"]
    tensors["0.weight"] = np.zeros((2, 3), np.float32)
    tensors["0.scale"] = np.zeros(1, np.float32)
    with pytest.raises(WeightsError) as caught:
        set_weights(model, tensors, source="some.file")
    message = str(caught.value)
    assert message.startswith("some.file does not fit the model")
    assert "missing (1): 1._mean" in message
    assert "unexpected (1): 0.scale" in message
    assert "wrong shape (1): 0.weight [2, 3] instead of [3, 2]" in message
    for name, value in model.state_dict().items():
        assert_bits_equal(value.numpy(), before[name])


@pytest.mark.parametrize("kind", ["missing", "unexpected", "wrong shape"])
def test_each_kind_of_difference_alone_is_refused(kind: str) -> None:
    model = _linear()
    tensors = _weights(model)
    if kind == "missing":
        del tensors["0.bias"]
    else:
        tensors["0.scale" if kind == "unexpected" else "0.bias"] = np.zeros(7, np.float32)
    with pytest.raises(WeightsError, match=rf"{kind} \(1\): 0\."):
        set_weights(model, tensors, source="x")


def test_long_lists_of_names_are_cut() -> None:
    model = AnyModel(*[paddle.nn.Linear(1, 1) for _ in range(6)])
    with pytest.raises(WeightsError, match=r"missing \(12\): 0\.weight, .*3\.bias, \.\.\."):
        set_weights(model, {}, source="x")


def test_replaceable_names_of_another_shape_are_left_out_and_told() -> None:
    model = _linear()
    before = model.state_dict()["0.weight"].numpy()
    tensors = _weights(model) | {"0.weight": np.zeros((3, 5), np.float32)}
    assert set_weights(model, tensors, source="x", replaceable=("0.weight", "0.bias")) == ["0.weight"]
    assert_bits_equal(model.state_dict()["0.weight"].numpy(), before)
    assert_bits_equal(model.state_dict()["0.bias"].numpy(), tensors["0.bias"])  # its shape fits
    del tensors["0.weight"]
    with pytest.raises(WeightsError, match=r"missing \(1\): 0\.weight"):
        set_weights(model, tensors, source="x", replaceable=("0.weight",))


def test_load_weights_reads_both_kinds_of_file(tmp_path: Path) -> None:
    model = _linear()
    plain, averaged = _weights(model), {k: v + 1 for k, v in _weights(model).items()}
    tensors = {f"model/{k}": v for k, v in plain.items()} | {f"ema/{k}": v for k, v in averaged.items()}
    write_container(tmp_path / "own.safetensors", tensors | {"optimizer/x": np.ones(1)}, DESCRIPTION)
    save_file(plain, tmp_path / "plain.safetensors")
    for name in ("own", "plain"):
        other = _linear()
        load_weights(other, tmp_path / f"{name}.safetensors")
        for key, value in other.state_dict().items():
            assert_bits_equal(value.numpy(), plain[key])
    loaded = read_weights(tmp_path / "own.safetensors", use_ema=True)
    assert loaded.state == DESCRIPTION
    for key, value in averaged.items():
        assert_bits_equal(loaded.tensors[key], value)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "plain.safetensors")
    write_container(tmp_path / "own.safetensors", {"model/a": np.ones(1)}, DESCRIPTION)
    write_container(tmp_path / "other.safetensors", {"optimizer/a": np.ones(1)}, DESCRIPTION)
    (tmp_path / "x.pdparams").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match=r"plain\.safetensors: .*--use_ema"):
        read_weights(tmp_path / "plain.safetensors", use_ema=True)
    with pytest.raises(WeightsError, match=r"own\.safetensors: holds no averaged weights"):
        read_weights(tmp_path / "own.safetensors", use_ema=True)
    with pytest.raises(WeightsError, match=r"other\.safetensors: holds no model weights"):
        read_weights(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"x\.pdparams: its pickle is damaged"):
        read_weights(tmp_path / "x.pdparams")
    with pytest.raises(MissingInputError, match=r"gone\.safetensors: no such file"):
        read_weights(tmp_path / "gone.safetensors")
