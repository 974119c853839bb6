"""A run of three saves, without a model: what it saves, and what must be left of it."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from util.train.progress import Progress, stems_of
from util.train.run_folder import RunFolder
from util.weights.container import read_container

# The first save sets both bests, the second is in the middle of an epoch, the third sets one best again.
PROGRESS = (
    Progress(epoch=1, update=4, best_acc1=30.0, best_acc1_ema=20.0, best_update=4, best_update_ema=4),
    Progress(epoch=1, iteration=3, update=6, best_acc1=30.0, best_acc1_ema=20.0, best_update=4, best_update_ema=4),
    Progress(epoch=2, update=8, best_acc1=30.0, best_acc1_ema=25.0, best_update=4, best_update_ema=8),
)
INTERVAL = 1  # epochs between numbered checkpoints
KEEP = 1


def tensors_of(number: int) -> dict[str, np.ndarray]:
    """Returns what save `number` holds, some kB."""
    rng = np.random.default_rng(number)
    return {
        "model/weight": rng.standard_normal((16, 12)).astype(np.float32),
        "model/bias": rng.standard_normal(16).astype(np.float32),
        "optim/moment1/weight": rng.standard_normal((16, 12)).astype(np.float32),
        "optim/step": np.array(number),
    }


def state_of(number: int) -> dict[str, Any]:
    """Returns the state of save `number`."""
    return {"model": {"name": "x", "num_classes": 2}, "settings": {"seed": 0}, "progress": asdict(PROGRESS[number])}


def save(folder: RunFolder, number: int) -> None:
    """Makes save `number`."""
    stems = stems_of(PROGRESS[number], INTERVAL)
    folder.save(tensors_of(number), state_of(number), stems=stems, keep=KEEP)


def open_run(path: Path) -> RunFolder:
    """Returns the folder of a run, created."""
    folder = RunFolder(str(path.parent), path.name)
    folder.create()
    return folder


def contents(path: Path) -> dict[str, bytes]:
    """Returns a folder's checkpoints, and whatever else is there but the lock."""
    return {p.name: p.read_bytes() for p in sorted(path.iterdir()) if p.name != ".lock"}


def newest_of(folder: RunFolder) -> tuple[str, int]:
    """Returns the name and the update of the checkpoint that is continued from."""
    found = folder.newest(logging.getLogger("test"))
    assert found is not None
    return found[0].stem, found[1].state["progress"]["update"]


def recovered(path: Path) -> int:
    """Starts again in a folder, and returns which save it goes on from; -1: from the beginning.

    Asserts that this one is whole, under all names that it belongs under, and that nothing else is left behind.
    """
    folder = open_run(path)
    found = folder.newest(logging.getLogger("test"))
    assert not list(path.glob(".tmp-*"))
    if found is None:
        return -1
    source, newest = found
    number = [p.update for p in PROGRESS].index(newest.state["progress"]["update"])
    folder.complete(source, PROGRESS[number], INTERVAL)
    folder.prune(KEEP)
    for stem in stems_of(PROGRESS[number], INTERVAL):
        again = read_container(folder.file(stem))
        assert again.state == newest.state
        for name, tensor in tensors_of(number).items():
            np.testing.assert_array_equal(again.tensors[name], tensor)
    return number
