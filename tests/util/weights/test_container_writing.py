"""What is written: a file that the library reads, the same bytes each time, or nothing when writing fails."""

import errno
import hashlib
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.containers import STATE, assert_bits_equal, some_tensors
from tests.faulty_storage import FaultyStorage
from util import storage
from util.errors import NonFiniteLossError, SaveError
from util.weights.container import (
    copy_container,
    read_container,
    write_container,
)  # fmt: skip


def test_the_library_reads_it_and_tensors_are_aligned(saved: Path) -> None:
    loaded = load_file(saved)
    assert loaded.keys() == some_tensors().keys()
    for name, tensor in some_tensors().items():
        assert_bits_equal(loaded[name], tensor)
    data = saved.read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]
    end = 0
    for name, entry in header.items():  # in the order of their places, without gaps
        assert entry["data_offsets"][0] == end
        assert end % some_tensors()[name].dtype.itemsize == 0, name
        end = entry["data_offsets"][1]
    assert 8 + size + end == len(data)


def test_equal_content_gives_equal_bytes(saved: Path, tmp_path: Path) -> None:
    backwards = dict(reversed(some_tensors().items()))
    write_container(tmp_path / "other.safetensors", backwards, dict(reversed(STATE.items())))
    assert (tmp_path / "other.safetensors").read_bytes() == saved.read_bytes()


def test_files_that_the_library_wrote_stay_readable(tmp_path: Path) -> None:
    """Up to version 0.1 the library wrote them; the sha256 is worked out here from what it was said to be over."""
    tensors, text = {k: np.ascontiguousarray(v) for k, v in some_tensors().items()}, json.dumps(STATE, sort_keys=True)
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        sha.update(f"{name} {tensors[name].dtype.str} {tensors[name].shape}".encode() + tensors[name].tobytes())
    metadata = {"format": "paddle-cvt-checkpoint", "version": "1", "state": text, "sha256": sha.hexdigest()}
    save_file(tensors, tmp_path / "old.safetensors", metadata=metadata)
    assert read_container(tmp_path / "old.safetensors").state == STATE


def test_saving_holds_no_second_copy_of_the_tensors(tmp_path: Path) -> None:
    tensors = {str(n): np.ones(1 << 20, np.float32) for n in range(12)}  # of 4 MiB each
    tracemalloc.start()
    try:
        write_container(tmp_path / "x.safetensors", tensors, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * (4 << 20)


def test_two_threads_save_at_once(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=write_container, args=(tmp_path / f"{n}.safetensors", some_tensors(), {"n": n}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [read_container(tmp_path / f"{n}.safetensors").state["n"] for n in range(4)] == [0, 1, 2, 3]


def test_a_type_that_the_format_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"x has elements of type complex128"):
        write_container(tmp_path / "x.safetensors", {"x": np.ones(1, np.complex128)}, {})
    assert os.listdir(tmp_path) == []


# --- writing fails


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("util.weights.container._verify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_container(tmp_path / "x.safetensors", some_tensors(), STATE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensor_that_is_not_finite_is_not_saved(value: float, saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(NonFiniteLossError, match=r"not saved: model/weight has NaN or infinite values"):
        write_container(saved, {"model/weight": np.array([1.0, value], np.float32)}, {})
    assert saved.read_bytes() == before


@pytest.mark.parametrize("failing", ["create", "write", "sync", "close", "replace", "sync_folder"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_failed_write_leaves_the_old_file_and_no_other(
    failing: str, code: int, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def fail(*arguments: Any) -> None:
        if failing == "close":
            os.close(arguments[0])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(storage, failing, fail)
    monkeypatch.setattr(storage, "PAUSES", (0.0,))
    if (failing, code) == ("sync_folder", errno.EACCES):  # a file system that cannot: the file is whole and in place
        write_container(saved, {"x": np.ones(3, np.float32)}, {})
        return
    with pytest.raises(SaveError, match=rf"checkpoint\.safetensors: not saved: {os.strerror(code)}"):
        write_container(saved, {"x": np.ones(3, np.float32)}, {})
    assert os.listdir(saved.parent) == [saved.name]
    if failing == "sync_folder":
        assert set(read_container(saved).tensors) == {"x"}
    else:
        assert saved.read_bytes() == before


def test_what_is_written_is_read_back_before_the_old_file_is_replaced(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, places = saved.read_bytes(), []
    read = storage.read
    monkeypatch.setattr(storage, "PAUSES", ())

    def read_other(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        places.append(start)
        assert saved.read_bytes() == before
        for piece in read(path, start, stop):
            yield bytes([piece[0] ^ 1]) + piece[1:]

    monkeypatch.setattr(storage, "read", read_other)
    for act in (lambda: write_container(saved, some_tensors(), {}), lambda: copy_container(saved, saved)):
        with pytest.raises(SaveError, match=r"not saved: what was read back is not what was written; earlier"):
            act()
        assert saved.read_bytes() == before
        assert os.listdir(saved.parent) == [saved.name]
    assert len(places) > 3


def test_file_is_synced_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = FaultyStorage()
    working.install(monkeypatch)
    write_container(tmp_path / "x.safetensors", some_tensors(), STATE)
    kinds = [operation.kind for operation in working.record if operation.kind != "write"]
    assert kinds == ["create", "sync", "close", "replace", "sync_folder"]


def test_a_copy_is_equal_and_a_file_of_its_own(saved: Path, tmp_path: Path) -> None:
    copy_container(saved, tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == saved.read_bytes()
    assert (tmp_path / "copy.safetensors").stat().st_ino != saved.stat().st_ino


def test_removed_folder_is_a_save_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"gone/x\.safetensors: not saved: No such file"):
        write_container(tmp_path / "gone" / "x.safetensors", some_tensors(), STATE)
    with pytest.raises(SaveError, match=r"x\.safetensors: not saved: No such file"):
        copy_container(tmp_path / "gone.safetensors", tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == []
