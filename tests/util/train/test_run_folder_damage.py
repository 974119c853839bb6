"""Damaged checkpoints, and what is none, are noticed, set aside and reported; the run goes on from the one before."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.runs import INTERVAL, PROGRESS, contents, newest_of, state_of, tensors_of
from util import storage
from util.errors import MissingInputError, WeightsError
from util.train.progress import BEST, BEST_EMA, LATEST, PREVIOUS
from util.train.run import forget_missing_best
from util.train.run_folder import RunFolder
from util.weights import container
from util.weights.container import read_container

ROOT = Path(__file__).parents[3]
LOG = logging.getLogger("test")


def damages(data: bytes) -> Iterator[bytes]:
    """64 truncations and 256 flipped bits."""
    for length in np.linspace(0, len(data) - 1, 64).astype(int):
        yield data[:length]
    for place in np.linspace(0, 8 * len(data) - 1, 256).astype(int):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << (place % 8)
        yield bytes(flipped)


def test_every_truncation_and_flipped_bit_is_detected_and_the_previous_one_used(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    for stem in ("checkpoint-000000008", "checkpoint-best-ema"):  # the same save
        folder.file(stem).unlink()
    latest, whole = folder.file(LATEST), folder.file(LATEST).read_bytes()
    damaged = latest.with_name(f"{latest.name}.damaged")
    for data in damages(whole):
        latest.write_bytes(data)
        assert newest_of(folder) == (PREVIOUS, 6)
        assert not latest.exists()
        assert damaged.read_bytes() == data
        damaged.unlink()
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 320
    assert all(w.startswith(f"{latest}: ") and w.endswith(f"; kept as {damaged.name}") for w in warnings)
    latest.write_bytes(whole)
    assert newest_of(folder) == (LATEST, 8)


def test_without_the_digest_flipped_bits_would_be_used(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    latest, whole = folder.file(LATEST), folder.file(LATEST).read_bytes()
    sha256 = container._digest_of(tensors_of(2), json.dumps(state_of(2), sort_keys=True))
    monkeypatch.setattr(container, "_digest_of", lambda tensors, state: sha256)
    used = 0
    for data in damages(whole):
        latest.write_bytes(data)
        with contextlib.suppress(WeightsError):
            used += len(data) == len(whole) and bool(read_container(latest))
    assert used > 100


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "note.txt").write_text("mine")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def foreign(path: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (empty, "damaged, or not a safetensors file"),
        (zeros, "damaged, or not a safetensors file"),
        (directory, "is not a file"),
        (fifo, "is not a file"),
        (foreign, "a safetensors file, but not a checkpoint of this project"),
    ],
)
def test_what_is_no_checkpoint_is_set_aside_with_a_reason(
    damage: Callable[[Path], None], reason: str, folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder.file(LATEST))
    name, update = newest_of(folder)
    assert (name, update) == ("checkpoint-000000008", 8)
    assert f"checkpoint-latest.safetensors: {reason}" in caplog.text
    assert "kept as checkpoint-latest.safetensors.damaged" in caplog.text
    folder.complete(folder.file(name), PROGRESS[2], INTERVAL)
    assert newest_of(folder) == (LATEST, 8)


def test_a_place_that_the_disk_cannot_read_is_damage(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read = storage.read

    def fail(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        if path.stem == LATEST and stop is None:
            raise OSError(5, os.strerror(5))
        return read(path, start, stop)

    monkeypatch.setattr(storage, "read", fail)
    assert newest_of(folder) == ("checkpoint-000000008", 8)
    assert (folder.path / "checkpoint-latest.safetensors.damaged").exists()


def test_a_second_damaged_one_does_not_replace_the_first(folder: RunFolder) -> None:
    for text in (b"one", b"two", b"three"):
        folder.file(LATEST).write_bytes(text)
        folder.newest(LOG)
    found = {name: data for name, data in contents(folder.path).items() if "damaged" in name}
    assert list(found.values()) == [b"one", b"two", b"three"]
    assert next(iter(found)) == "checkpoint-latest.safetensors.damaged"


def test_a_header_that_is_damaged_to_claim_less_is_noticed(folder: RunFolder) -> None:
    """Or a run would go on from the previous one and never say that the latest was damaged."""
    data = folder.file(LATEST).read_bytes()
    folder.file(LATEST).write_bytes(data.replace(b'\\"update\\": 8', b'\\"update\\": 0'))
    assert newest_of(folder) == ("checkpoint-000000008", 8)
    assert (folder.path / "checkpoint-latest.safetensors.damaged").exists()


def test_a_later_versions_file_stops_the_run_and_stays(folder: RunFolder) -> None:
    path = folder.file(LATEST)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata=metadata | {"version": "2", "sha256": "of something else"})
    before = path.read_bytes()
    with pytest.raises(WeightsError, match=r"written in format version 2; .* the version of this project that wrote"):
        folder.newest(LOG)
    assert path.read_bytes() == before


def flip(path: Path) -> None:
    """Flips a bit of the tensors, which a header does not tell."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("stem", [BEST, BEST_EMA])
def test_a_damaged_best_one_is_noticed_though_the_run_goes_on_from_another(
    stem: str, folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    flip(folder.file(stem))
    assert newest_of(folder) == (LATEST, 8)
    assert not folder.file(stem).exists()
    assert f"kept as {stem}.safetensors.damaged" in caplog.text
    folder.complete(folder.file(LATEST), PROGRESS[2], INTERVAL)
    assert folder.file(stem).exists() == (stem == BEST_EMA)  # that one is the latest once more


def test_the_weights_of_a_damaged_best_one_are_called_lost_and_the_next_epoch_is_the_best(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    forget_missing_best(replace(PROGRESS[2]), folder, LOG)
    assert caplog.text == ""  # the control
    flip(folder.file(BEST))
    newest_of(folder)
    progress = replace(PROGRESS[2])
    forget_missing_best(progress, folder, LOG)
    assert progress == replace(PROGRESS[2], best_acc1=-1.0, best_update=-1)
    warning = caplog.records[-1]
    assert warning.levelno == logging.WARNING
    assert f"{folder.file(BEST)} was damaged: the weights of its epoch, the best so far with top-1 30.00, are lost" in (
        warning.getMessage()
    )


def test_none_left_is_an_error_that_says_what_to_do(folder: RunFolder) -> None:
    for path in folder.path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MissingInputError, match=r"no usable checkpoint; start anew with --restart"):
        folder.newest(LOG)
    with pytest.raises(MissingInputError, match="no usable checkpoint"):  # nor the second time
        folder.newest(LOG)
