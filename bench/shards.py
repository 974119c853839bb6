"""Measures a data set in class folders against the same in tar shards: start of a run, reading, and the index.

    python bench/shards.py FOLDER [--images 10000] [--kilobytes 110] [--index 1281167]

FOLDER is made, filled with files of random bytes (reading is measured, not decoding, which is the same for both), and
removed again. `cold`: the kernel was asked to forget the files' content before; what the disk itself or a network file
system keeps in memory stays there. Every read is of one process. Prints one JSON object a measurement.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.data.image_list import ImageList
from util.data.images import read_bytes
from util.data.paths import Paths
from util.data.shard import main as shard
from util.data.shard_files import Shard, ShardOrder
from util.data.shard_index import ShardIndex, write_index
from util.data.splits import load_split

CLASSES = 100
SHARD_MB = 100
SHARDS = 150  # of the large index


def say(what: str, **values: Any) -> None:
    print(json.dumps({"what": what, **values}), flush=True)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    found = function()
    return found, time.perf_counter() - start


def write_files(folder: Path, *, images: int, size: int) -> None:
    """Writes `folder/train/<class>/<number>.jpg`; sizes are even from half to one and a half times `size`."""
    rng = np.random.default_rng(0)
    for i in range(images):
        path = folder / f"train/n{i % CLASSES:08d}/n{i % CLASSES:08d}_{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(int(rng.integers(size // 2, size * 3 // 2))))


def forget(folder: Path) -> None:
    """Asks the kernel to drop the files' content from memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read(images: ImageList, order: np.ndarray) -> int:
    """Reads all images in an order; returns their bytes."""
    total = 0
    for i in order.tolist():
        path = images.path(i)
        total += len(read_bytes(path) if images.shards is None else images.shards.read(i, name=path))
    return total


def measure_reading(what: str, images: ImageList, order: np.ndarray, folder: Path) -> None:
    for state in ("cold", "warm"):
        if state == "cold":
            forget(folder)
        size, seconds = timed(lambda: read(images, order))
        say(what, state=state, images_per_second=round(len(order) / seconds), mb_per_second=round(size / seconds / 1e6))


def measure_index(folder: Path, images: int) -> None:
    """Writes the index of a data set of this size, sparse files for shards, and opens it in a process of its own."""
    folder.mkdir()
    counts = np.full(SHARDS, images // SHARDS, np.int64)
    counts[-1] += images % SHARDS
    shards = []
    for number in range(SHARDS):
        path = folder / f"train-{number:06d}.tar"
        path.touch()
        os.truncate(path, 1 << 30)
        shards.append(Shard(path, 1 << 30, path.stat().st_mtime_ns))
    which = np.repeat(np.arange(SHARDS), counts)
    names = (f"train-{which[i]:06d}.tar:n{i % 1000:08d}/n{i % 1000:08d}_{i % 100_000}_{i}.jpg" for i in range(images))
    numbers = np.arange(images, dtype=np.int64)
    index = ShardIndex(shards, counts, numbers, numbers, numbers % 1000, Paths.of(names), None)
    write_index(index, folder / "train.shards.safetensors")
    program = "import sys; from bench.shards import open_index; open_index(sys.argv[1])"
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", program, str(folder.resolve())], cwd=root, check=True)


def peak_megabytes() -> int:
    """Returns the most memory that this process has held so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def open_index(folder: str) -> None:
    """Opens an index, as the start of a run does, and says what that took."""
    before = peak_megabytes()
    images, seconds = timed(lambda: load_split(folder, "train"))
    fingerprint, fingerprint_seconds = timed(images.fingerprint)
    say(
        "open an index",
        images=len(images),
        seconds=round(seconds, 2),
        fingerprint_seconds=round(fingerprint_seconds, 2),
        peak_mb=peak_megabytes(),
        peak_mb_before=before,
        fingerprint=fingerprint,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder to make, on the disk to measure")
    parser.add_argument("--images", type=int, default=10_000, help="images to read (default: 10000)")
    parser.add_argument(
        "--kilobytes", type=int, default=110, help="size of one; ImageNet's average is 110 (default: 110)"
    )
    parser.add_argument("--index", type=int, default=1_281_167, help="images of the large index (default: 1281167)")
    arguments = parser.parse_args()
    arguments.folder.mkdir()
    files, shards = arguments.folder / "files", arguments.folder / "shards"
    try:
        write_files(files, images=arguments.images, size=arguments.kilobytes * 1000)
        pack = [str(files), "--output", str(shards), "--split", "train", "--shard_mb", str(SHARD_MB)]
        say("pack", images=arguments.images, seconds=round(timed(lambda: shard(pack))[1], 2))
        by_files, seconds = timed(lambda: load_split(str(files), "train"))
        say("start from folders", seconds=round(seconds, 3))
        by_shards, seconds = timed(lambda: load_split(str(shards), "train"))
        say("start from shards, by their index", seconds=round(seconds, 3))
        (shards / "train.shards.safetensors").unlink()
        say("start from shards without it", seconds=round(timed(lambda: load_split(str(shards), "train"))[1], 3))
        rng = np.random.default_rng(0)
        order = rng.permutation(arguments.images)
        measure_reading("read folders in random order", by_files, order, files)
        measure_reading("read shards in random order", by_shards, order, shards)
        for window in (1, 4):
            near = ShardOrder(by_shards.shards.shard, window)(rng)
            measure_reading(f"read shards with --shard_window {window}", by_shards, near, shards)
        measure_index(arguments.folder / "index", arguments.index)
    finally:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
