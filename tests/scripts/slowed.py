"""train.py with something made slow or broken: `python slowed.py WHAT MARKER ARGUMENTS...`.

As soon as it happens, the file MARKER is there. What is changed is what nobody can wait for otherwise; all else is the
real script.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from train import main
from util import runtime
from util.errors import run_script

WRITER = "checkpoint"  # the thread


def after(function: Callable[..., Any], call: Callable[[], None]) -> Callable[..., Any]:
    """Returns the function with a call before it."""

    def changed(*arguments: Any, **named: Any) -> Any:
        call()
        return function(*arguments, **named)

    return changed


def slow(marker: Path, seconds: float, *, hits: int = 1) -> Callable[[], None]:
    """Returns a call that takes so long, and sets the marker at its `hits`-th time."""
    count = 0

    def call() -> None:
        nonlocal count
        count += 1
        if count >= hits:
            marker.touch()
        time.sleep(seconds)

    return call


def late(marker: Path, seconds: float, *, hits: int) -> Callable[[], None]:
    """Returns a call that takes so long at its `hits`-th time alone, and then sets the marker."""
    count = 0

    def call() -> None:
        nonlocal count
        count += 1
        if count == hits:
            marker.touch()
            time.sleep(seconds)

    return call


def in_writer(call: Callable[[], None]) -> Callable[[], None]:
    """Returns a call that is made only where a checkpoint is being written."""
    return lambda: call() if threading.current_thread().name == WRITER else None


def note_forks(marker: Path) -> Callable[[], None]:
    """Returns a call that adds a line to the marker: `quiet`, or `writing` while a checkpoint is being written."""

    def call() -> None:
        writing = any(thread.name == WRITER for thread in threading.enumerate())
        with marker.open("a") as file:
            file.write("writing\n" if writing else "quiet\n")

    return call


def change(what: str, marker: Path) -> None:
    """Makes one thing slow or broken. Paddle is imported here, after its threads are set."""
    runtime.start(1)
    from util import metrics, storage
    from util.data.image_list import ImageList
    from util.data.images import Decode, decode_image
    from util.data.loader import WorkerLoader
    from util.stop import StopRequest
    from util.train.step import TrainStep

    if what in ("step", "deaf step"):
        TrainStep.update = after(TrainStep.update, slow(marker, 0.3, hits=3))  # type: ignore[method-assign]
        if what == "deaf step":
            StopRequest.listen = lambda self: None  # type: ignore[method-assign]
    elif what == "save":
        storage.sync = after(storage.sync, in_writer(slow(marker, 0.5, hits=3)))
    elif what == "evaluation":
        metrics.MetricSums.update = after(metrics.MetricSums.update, slow(marker, 0.3))  # type: ignore[method-assign]
    elif what == "endless evaluation":  # its second batch: each is for the model and the average
        endless = late(marker, 1e6, hits=3)
        metrics.MetricSums.update = after(metrics.MetricSums.update, endless)  # type: ignore[method-assign]
    elif what == "forks":
        storage.sync = after(storage.sync, in_writer(lambda: time.sleep(0.2)))
        WorkerLoader._fork = after(WorkerLoader._fork, note_forks(marker))  # type: ignore[method-assign]
    elif what == "slow data":
        ImageList.image = after(ImageList.image, slow(marker, 0.33, hits=6))  # type: ignore[method-assign]
    elif what.startswith("late on "):
        if os.environ.get("PADDLE_TRAINER_ID", "0") == what[-1]:  # in the middle of the second update
            ImageList.image = after(ImageList.image, late(marker, 40, hits=7))  # type: ignore[method-assign]
    elif what in ("data", "data once", "val data once"):
        image, split = ImageList.image, "val" if what.startswith("val") else "train"

        def stuck(self: ImageList, index: int, decode: Decode = decode_image) -> Any:
            if index == 5 and split in self.paths[index] and not (what.endswith("once") and marker.exists()):
                marker.write_text(str(os.getpid()))
                time.sleep(1e6)
            return image(self, index, decode)

        ImageList.image = stuck  # type: ignore[method-assign]
    elif what.startswith("nan on "):
        break_loss(marker, rank=int(what[-1]))
    else:
        raise SystemExit(f"unknown: {what}")


def break_loss(marker: Path, *, rank: int) -> None:
    """Makes one process's loss NaN in its fourth iteration, as an overflow would: through the images."""
    from util.train.step import TrainStep

    accumulate, seen = TrainStep.accumulate, []

    def broken(self: TrainStep, images: Any, targets: Any, **named: Any) -> Any:
        seen.append(1)
        if len(seen) == 4 and int(os.environ.get("PADDLE_TRAINER_ID", "0")) == rank:
            marker.touch()
            images = images * float("nan")
        return accumulate(self, images, targets, **named)

    TrainStep.accumulate = broken  # type: ignore[method-assign]


if __name__ == "__main__":
    change(sys.argv[1], Path(sys.argv[2]))
    del sys.argv[1:3]
    run_script(main)
