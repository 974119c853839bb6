"""CIFAR's four distributions with generated pictures, in the real layouts but smaller."""

import pickle
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.reference import picture

NAMES_10 = ["airplane", "automobile", "bird", "cat"]
NAMES_100 = ["apple", "aquarium_fish", "baby", "bear", "beaver", "bed"]
COARSE = ["aquatic_mammals", "fish", "people"]


@dataclass(frozen=True)
class Batch:
    """Pictures uint8 (N, 32, 32, 3) and labels."""

    pixels: np.ndarray
    labels: list[int]

    def rows(self) -> np.ndarray:
        """(N, 3072): the red plane, the green one, the blue one."""
        return np.stack([np.concatenate([p[:, :, c].ravel() for c in range(3)]) for p in self.pixels])


def make_batch(seed: int, count: int, num_classes: int) -> Batch:
    pixels = np.stack([picture(32, 32, seed=100 * seed + i) for i in range(count)])
    return Batch(pixels, [(seed + i) % num_classes for i in range(count)])


@dataclass(frozen=True)
class Written:
    """What a distribution holds."""

    train: list[Batch]
    test: Batch
    class_names: list[str]


FOLDERS = {"cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary"}


def write_cifar(parent: Path, folder: str, *, count: int = 3) -> Written:
    """Writes the extracted files to `parent/folder`, which is one of `FOLDERS`, `count` pictures a file."""
    assert folder in FOLDERS
    place = parent / folder
    place.mkdir(parents=True)
    is_ten, binary = "-10-" in folder, "bin" in folder
    names = NAMES_10 if is_ten else NAMES_100
    files = [f"data_batch_{i}" for i in range(1, 6)] if is_ten else ["train"]
    written = Written(
        [make_batch(i + 1, count, len(names)) for i in range(len(files))], make_batch(9, count + 1, len(names)), names
    )
    for file, batch in zip([*files, "test_batch" if is_ten else "test"], [*written.train, written.test], strict=True):
        if binary:
            (place / f"{file}.bin").write_bytes(binary_batch(batch, coarse=not is_ten))
        else:
            (place / file).write_bytes(python_batch(batch, fine=not is_ten, name=file))
    if binary:
        (place / ("batches.meta.txt" if is_ten else "fine_label_names.txt")).write_text("\n".join(names) + "\n\n")
        if not is_ten:
            (place / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
        return written
    as_bytes = [name.encode() for name in names]
    meta: dict[bytes, Any] = {b"label_names": as_bytes, b"num_cases_per_batch": count, b"num_vis": 3072}
    if not is_ten:
        meta = {b"fine_label_names": as_bytes, b"coarse_label_names": [name.encode() for name in COARSE]}
    (place / ("batches.meta" if is_ten else "meta")).write_bytes(pickle.dumps(meta, protocol=2))
    (place / ("readme.html" if is_ten else "file.txt~")).write_text("of no use here")
    return written


def python_batch(batch: Batch, *, fine: bool, name: str = "batch") -> bytes:
    """Returns a pickled batch, as Python 3 writes it in Python 2's protocol."""
    entries: dict[bytes, Any] = {
        b"data": batch.rows(),
        b"fine_labels" if fine else b"labels": batch.labels,
        b"filenames": [f"{name}_{i}.png".encode() for i in range(len(batch.labels))],
        b"batch_label": b"training batch 1 of 5",
    }
    if fine:
        entries[b"coarse_labels"] = [0] * len(batch.labels)
    return pickle.dumps(entries, protocol=2)


def binary_batch(batch: Batch, *, coarse: bool) -> bytes:
    """Returns records of a label byte (two for CIFAR-100, the coarse one first) and 3072 pixel bytes."""
    records = zip(batch.labels, batch.rows(), strict=True)
    return b"".join((b"\2" if coarse else b"") + bytes([label]) + row.tobytes() for label, row in records)


def python2_batch(batch: Batch) -> bytes:
    """Returns a pickled CIFAR-10 batch with the opcodes of Python 2 and its numpy, as the distributed files are."""
    rows = batch.rows()
    values = rows.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01J" + struct.pack("<i", len(rows)) + b"J" + struct.pack("<i", 3072) + b"\x86"
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T" + struct.pack("<i", len(values)) + values + b"tb"
    )  # fmt: skip
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in batch.labels) + b"e"
    return b"\x80\x02}q\x01(U\x04data" + array + b"U\x06labels" + labels + b"U\x0bbatch_labelU\x04nameu."


def pack(parent: Path, folder: str, archive: Path) -> Path:
    """Packs `parent/folder` into an archive, compressed by its suffix, as the distributed ones are."""
    mode = {".gz": "w:gz", ".tar": "w", ".xz": "w:xz"}.get(archive.suffix, "w:gz")
    with tarfile.open(archive, mode) as file:  # type: ignore[call-overload]
        file.add(parent / folder, arcname=folder)
    return archive
