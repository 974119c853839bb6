"""Batches: the same ones whatever the number of workers, with bad images as values."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.trees import write_picture
from util.data import loader
from util.data.dataset import BadImage, ImageDataset, Sample
from util.data.image_list import ImageList
from util.data.loader import collate, eval_loader, make_loader, refuse_bad_images
from util.data.preprocessing import Preprocessing
from util.data.sampler import EvalBatches, TrainBatches
from util.data.splits import load_split
from util.data.transforms import eval_transform, train_transform
from util.errors import DataError
from util.log import NAME, start_logging
from util.options import LoaderOptions

PREPROCESSING = Preprocessing(
    input_size=(3, 16, 16), crop_pct=0.9, crop_mode="center", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
)
Arrays = list[tuple[np.ndarray, np.ndarray, np.ndarray, list[BadImage]]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    root = tmp_path_factory.mktemp("data")
    for i in range(10):
        write_picture(root / f"train/{'ab'[i % 2]}/{i}.png", seed=i, size=(24, 20))
    return load_split(str(root), "train")


def _sample(index: int) -> Sample:
    return Sample(np.full((3, 2, 2), index, np.float32), index % 3, index)


def test_collate_stacks_the_good_and_lists_the_bad() -> None:
    bad = BadImage("x.jpg", "is empty")
    stacked, labels, indices, found = collate([_sample(4), bad, _sample(2)])
    np.testing.assert_array_equal(stacked, np.stack([_sample(4).image, _sample(2).image]))
    assert (labels.tolist(), indices.tolist(), found) == ([1, 2], [4, 2], [bad])
    assert (stacked.dtype, labels.dtype, indices.dtype) == (np.float32, np.int64, np.int64)


def test_collate_of_bad_ones_alone_is_a_placeholder() -> None:
    bad = BadImage("x.jpg", "is empty")
    stacked, labels, indices, found = collate([bad, bad])
    assert stacked.shape == (1, 3, 1, 1)
    assert (labels.tolist(), indices.tolist(), found) == ([-1], [-1], [bad, bad])


def test_refuse_bad_images_names_path_and_reason() -> None:
    refuse_bad_images([])
    with pytest.raises(DataError, match=r"x\.jpg: is empty; repair or remove it"):
        refuse_bad_images([BadImage("x.jpg", "is empty")])
    with pytest.raises(DataError, match=r"0\.jpg: no.*4\.jpg: no; and 2 more; repair or remove"):
        refuse_bad_images([BadImage(f"{i}.jpg", "no") for i in range(7)])


def _epochs(images: ImageList, num_workers: int) -> list[Arrays]:
    """Returns the batches of epochs 0, 1 and 0 again from one loader."""
    sampler = TrainBatches(num_images=len(images), batch_size=3, seed=5)
    transform = train_transform(input_size=16, aa="rand-m9-mstd0.5-inc1", reprob=0.5)
    loader = make_loader(
        ImageDataset(images, transform, seed=5), sampler, loading=LoaderOptions(num_workers=num_workers)
    )
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append(_to_numpy(loader))
    return epochs


def _to_numpy(loader: Any) -> Arrays:
    return [(i.numpy(), labels.numpy(), indices.numpy(), bad) for i, labels, indices, bad in loader]


def _assert_equal(left: Arrays, right: Arrays) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a[:3], b[:3], strict=True):
            np.testing.assert_array_equal(x, y)
        assert a[3] == b[3]


def test_workers_give_the_same_batches_twice_around(images: ImageList) -> None:
    alone, with_workers = _epochs(images, 0), _epochs(images, 2)
    for left, right in zip(alone, with_workers, strict=True):
        _assert_equal(left, right)
    _assert_equal(alone[0], alone[2])
    assert len(alone[0]) == 3
    assert not np.array_equal(alone[0][0][2], alone[1][0][2])  # set_epoch reaches the order of living workers


def test_samples_are_augmented_by_their_key(images: ImageList) -> None:
    (batch, labels, indices, _), *_ = _epochs(images, 0)[1]
    transform: Callable[..., np.ndarray] = train_transform(input_size=16, aa="rand-m9-mstd0.5-inc1", reprob=0.5)
    dataset = ImageDataset(images, transform, seed=5)
    for image, label, index in zip(batch, labels, indices, strict=True):
        sample = dataset[(1, int(index), 0)]
        assert not isinstance(sample, BadImage)
        np.testing.assert_array_equal(image, sample.image)
        assert label == sample.label == images.labels[index]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_come_through_as_values(num_workers: int, images: ImageList, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(Path(images.path(0)).read_bytes())
    (tmp_path / "bad.png").write_bytes(b"nothing")
    mixed = ImageList(tmp_path, ["good.png", "bad.png", "gone.png", "good.png"], np.arange(4), None)
    first, second = _to_numpy(
        eval_loader(
            mixed,
            EvalBatches(num_images=4, batch_size=2),
            PREPROCESSING,
            loading=LoaderOptions(num_workers=num_workers),
        )
    )
    assert (first[1].tolist(), second[2].tolist()) == ([0], [3])
    assert first[3] == [BadImage(str(tmp_path / "bad.png"), "is not an image (JPEG, PNG, WEBP, BMP, GIF)")]
    assert second[3] == [BadImage(str(tmp_path / "gone.png"), "no such file")]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batch_of_bad_images_alone_comes_through_as_values(num_workers: int, tmp_path: Path) -> None:
    gone = ImageList(tmp_path, ["0.png", "1.png", "2.png"], np.arange(3), None)
    failure = ""
    try:
        found = _to_numpy(
            eval_loader(
                gone,
                EvalBatches(num_images=3, batch_size=2),
                PREPROCESSING,
                loading=LoaderOptions(num_workers=num_workers),
            )
        )
    except SystemError as error:
        failure = str(error)  # kept alive by the error's frames, the loader would hang pytest at its exit
    assert not failure
    assert [labels.tolist() for _, labels, *_ in found] == [[-1], [-1]]
    assert [bad.path for *_, batch in found for bad in batch] == [str(tmp_path / f"{i}.png") for i in range(3)]


def test_evaluation_batches_are_the_evaluation_transform(images: ImageList) -> None:
    batches = EvalBatches(num_images=len(images), batch_size=4)
    found = _to_numpy(eval_loader(images, batches, PREPROCESSING, loading=LoaderOptions(num_workers=0)))
    assert np.concatenate([indices for _, _, indices, _ in found]).tolist() == list(range(10))
    assert np.concatenate([labels for _, labels, _, _ in found]).tolist() == images.labels.tolist()
    transform = eval_transform(input_size=16, crop_pct=0.9, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    dataset = ImageDataset(images, lambda image, rng: transform(image), seed=0)
    for index, image in enumerate(np.concatenate([batch for batch, *_ in found])):
        sample = dataset[(0, index, 0)]
        assert not isinstance(sample, BadImage)
        np.testing.assert_array_equal(image, sample.image)


# --- shared memory


@pytest.mark.parametrize("shared_memory", [True, False])
def test_shared_memory_is_what_paddle_is_told(
    shared_memory: bool, images: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loader, "DataLoader", lambda dataset, **options: told.append(options))
    batches = EvalBatches(num_images=10, batch_size=4)
    eval_loader(images, batches, PREPROCESSING, loading=LoaderOptions(num_workers=2, shared_memory=shared_memory))
    assert [options["use_shared_memory"] for options in told] == [shared_memory]


def test_batches_are_the_same_without_shared_memory(images: ImageList) -> None:
    batches = EvalBatches(num_images=10, batch_size=4)
    without = eval_loader(images, batches, PREPROCESSING, loading=LoaderOptions(num_workers=2, shared_memory=False))
    _assert_equal(
        _to_numpy(without), _to_numpy(eval_loader(images, batches, PREPROCESSING, loading=LoaderOptions(num_workers=0)))
    )


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def _warnings(images: ImageList, monkeypatch: pytest.MonkeyPatch, *, free: int, **options: Any) -> list[str]:
    """Returns what the run's log says of /dev/shm with `free` bytes, for batches of 4 images of 3 x 16 x 16 float32."""
    log = _Lines()
    start_logging(is_main=True)
    monkeypatch.setattr(logging.getLogger(NAME), "handlers", [log])
    monkeypatch.setattr(loader, "DataLoader", lambda dataset, **options: None)
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=free, f_frsize=1))
    eval_loader(images, EvalBatches(num_images=10, batch_size=4), PREPROCESSING, loading=LoaderOptions(**options))
    return log.lines


BATCH = 4 * 3 * 16 * 16 * 4  # bytes


def test_small_shared_memory_is_told_before_workers_die_of_it(
    images: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    [line] = _warnings(images, monkeypatch, free=5 * BATCH - 1, num_workers=2)  # 2 for each worker, 1 in use
    assert line.startswith("WARNING /dev/shm has 0 MB free, batches in flight need 0 MB")
    assert "--no_shared_memory" in line


@pytest.mark.parametrize(("free", "options"), [
    (5 * BATCH, {"num_workers": 2}), (0, {"num_workers": 0}), (0, {"num_workers": 2, "shared_memory": False}),
])  # fmt: skip
def test_nothing_is_said_when_shared_memory_suffices_or_is_not_used(
    free: int, options: dict[str, Any], images: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _warnings(images, monkeypatch, free=free, **options) == []


def test_all_processes_of_a_machine_share_it(images: ImageList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", "4")
    assert len(_warnings(images, monkeypatch, free=20 * BATCH - 1, num_workers=2)) == 1


CRASH = """
import os, signal, sys, time
from util import runtime
runtime.start(1)
from util.data.loader import WorkerLoader, make_loader
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
        os.kill(os.getpid(), signal.SIGBUS)  # as a write to a full /dev/shm ends

fork = WorkerLoader._fork

def fork_and_wait(self):
    workers = fork(self)
    time.sleep(30)  # its end comes here, as an exception
    return workers

if "early" in sys.argv:
    WorkerLoader._fork = fork_and_wait

def main(argv):
    list(make_loader(Data(), EvalBatches(num_images=4, batch_size=1), loading=LoaderOptions(num_workers=1)))

run_script(main)
"""


@pytest.mark.parametrize("when", ["while a batch is awaited", "early"])
def test_worker_that_dies_is_one_line_and_the_run_can_be_continued(when: str) -> None:
    root = Path(loader.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", CRASH, when], cwd=root, capture_output=True, text=True, errors="replace", timeout=60
    )
    assert done.returncode == 75
    assert done.stderr.count("error: data worker 0 (process ") == 1
    assert "was killed, which was at picture 0; if nobody did, memory ran out" in done.stderr
    assert "--no_shared_memory" in done.stderr
    assert "internal error" not in done.stderr
