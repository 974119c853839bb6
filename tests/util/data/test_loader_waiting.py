"""How workers are awaited: signals that reach them, pauses of the whole run, and an end to waiting."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.trees import write_picture
from util.data import loader, workers
from util.data.dataset import ImageDataset
from util.data.image_list import ImageList
from util.data.loader import POLL, WorkerLoader, make_loader
from util.data.sampler import EvalBatches
from util.data.splits import load_split
from util.data.transforms import train_transform
from util.errors import ResumableError
from util.options import LoaderOptions


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    root = tmp_path_factory.mktemp("data")
    for i in range(4):
        write_picture(root / f"train/{'ab'[i % 2]}/{i}.png", seed=i, size=(24, 20))
    return load_split(str(root), "train")


def _slow_begin(worker_id: int) -> None:
    """A worker that takes its time before it is asked to ignore signals."""
    time.sleep(0.5)
    _BEGIN_WORKER(worker_id)


_BEGIN_WORKER = loader._begin_worker


class _Answers:
    """A queue to which a batch comes after some looks; of each look it is known how long it took."""

    def __init__(self, clock: SimpleNamespace, looks: list[float]) -> None:
        self._clock, self._looks = clock, looks

    def get(self, *, timeout: float) -> str:
        if not self._looks:
            return "batch"
        self._clock.now += self._looks.pop(0)
        raise queue.Empty


@pytest.fixture
def wait(images: ImageList, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[float]], Any]]:
    """Yields what a loader whose --data_timeout is 10 gets, after looks that took so long; this is its worker."""
    clock = SimpleNamespace(now=0.0)
    module = SimpleNamespace(monotonic=lambda: clock.now, monotonic_ns=lambda: int(clock.now * 1e9))
    monkeypatch.setattr(workers, "time", module)
    loading = LoaderOptions(num_workers=1, data_timeout=10.0)
    dataset = ImageDataset(images, train_transform(input_size=16), seed=0)
    awaiting = make_loader(dataset, EvalBatches(num_images=4, batch_size=1), loading=loading)
    assert isinstance(awaiting, WorkerLoader)
    awaiting.board.enter(0, os.getpid())
    awaiting.board.busy(0, 3)
    yield lambda looks: awaiting._await(_Answers(clock, looks))  # type: ignore[arg-type]
    awaiting.board.clear()  # or this process would be ended as a worker


def test_signals_to_the_group_harm_no_worker_that_has_just_begun(
    images: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_begin_worker", _slow_begin)
    dataset = ImageDataset(images, train_transform(input_size=16), seed=0)
    loading = make_loader(
        dataset, EvalBatches(num_images=4, batch_size=1), loading=LoaderOptions(num_workers=2), persistent=False
    )
    fork = loading._fork  # type: ignore[attr-defined]

    def fork_and_signal() -> Any:
        iterator = fork()
        time.sleep(0.2)  # as long as Paddle needs to install its handler
        for process in iterator._workers:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(process.pid, number)
        return iterator

    monkeypatch.setattr(loading, "_fork", fork_and_signal)
    assert len(list(loading)) == 4
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_pause_of_the_whole_run_is_not_waiting(wait: Callable[[list[float]], Any]) -> None:
    """Ctrl-Z for an hour, and then up to --data_timeout for the batch."""
    assert wait([POLL, 3600.0, *[POLL] * 45]) == "batch"
    assert wait([3600.0] * 20) == "batch"


def test_waiting_has_an_end_also_after_a_pause(wait: Callable[[list[float]], Any], images: ImageList) -> None:
    for looks in ([POLL] * 52, [3600.0, *[POLL] * 52], [3600.0] * 27):
        with pytest.raises(
            ResumableError, match=r"^no batch came for 10 s \(--data_timeout 10\): data worker 0 "
        ) as caught:
            wait(looks)
        assert str(caught.value).endswith(images.path(3))


SLOW = """
import sys, time
from util import runtime
runtime.start(1)
import numpy as np
from util.data.dataset import Sample
from util.data.loader import make_loader
from util.data.sampler import EvalBatches
from util.errors import run_script
from util.options import LoaderOptions

class Data:
    class images:
        def path(index):
            return f"picture {index}"

    def report_to(self, board, worker):
        self.board, self.worker = board, worker

    def __getitem__(self, key):
        self.board.busy(self.worker, key[1])
        time.sleep(0.8)
        return Sample(np.zeros((3, 2, 2), np.float32), 0, key[1])

def main(argv):
    loading = LoaderOptions(num_workers=1, data_timeout=2.0)
    for images, labels, indices, bad in make_loader(Data(), EvalBatches(num_images=4, batch_size=1), loading=loading):
        print(*indices.numpy(), flush=True)

run_script(main)
"""


def test_a_run_that_was_stopped_as_a_whole_goes_on() -> None:
    """As by Ctrl-Z and `fg`, for longer than --data_timeout, in the middle of an image."""
    root = Path(loader.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=root, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stdout.readline() == "0\n"
        time.sleep(0.3)
        os.killpg(run.pid, signal.SIGSTOP)
        time.sleep(3)
        os.killpg(run.pid, signal.SIGCONT)
        said, errors = run.communicate(timeout=60)
    assert (run.returncode, said.split(), "error" in errors) == (0, ["1", "2", "3"], False), errors
