"""Saves more than a small disk holds, and says what is left; a test starts it.

Prints the error, what `check_space` says, whether the earlier checkpoint is byte-equal, which unfinished files are
left, and the update of a checkpoint that is saved afterwards.
"""

import resource
import sys

import numpy as np

from util import storage
from util.errors import OutputError, SaveError
from util.train.run_folder import RunFolder
from util.weights.container import read_container


def save(folder: RunFolder, update: int, size: int) -> None:
    tensors = {"model/weight": np.full(size // 4, update, np.float32)}
    folder.save(tensors, {"progress": {"update": update}}, stems=["checkpoint-latest"], keep=1)


def main(place: str, *limit: str) -> None:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    storage.PAUSES = (0.0, 0.0, 0.0)
    folder = RunFolder(place, "run")
    folder.create()
    save(folder, 1, 100_000)
    before = folder.file("checkpoint-latest").read_bytes()
    try:
        save(folder, 2, 2_000_000)
    except SaveError as error:
        print(error)
    try:
        folder.check_space(2_000_000, copies=2)
        print("enough")
    except OutputError as error:
        print(error)
    print(folder.file("checkpoint-latest").read_bytes() == before)
    print(list(map(str, folder.path.glob(".tmp-*"))))
    save(folder, 3, 100_000)
    print(read_container(folder.file("checkpoint-latest")).state["progress"]["update"])


if __name__ == "__main__":
    main(*sys.argv[1:])
