"""The epoch's loop: which update it is, and at which learning rate."""

import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paddle
import pytest
from paddle import Tensor, nn

from tests.hooks import NOTHING_BETWEEN
from tests.trees import write_tree
from util.data.preprocessing import Preprocessing
from util.distributed import World
from util.options import AugmentOptions, DataOptions, LoaderOptions, MixOptions, ScheduleOptions, TrainDataOptions
from util.stop import StopRequest, StopWaiting
from util.train.data import TrainingData, load_splits
from util.train.epoch import IN_UPDATE_PATIENCE, EpochHooks, train_one_epoch
from util.train.progress import Progress
from util.train.schedule import Schedule

ONE = World(rank=0, size=1)


class Step:
    """Notes what it is told."""

    model = nn.Identity()
    update_freq = 2
    scaler = paddle.amp.GradScaler(enable=False)

    def __init__(self) -> None:
        self.groups: list[tuple[int, bool]] = []
        self.updates: list[tuple[float, int]] = []

    def accumulate(self, images: Tensor, targets: Tensor, *, group_size: int, last: bool) -> Tensor:
        self.groups.append((group_size, last))
        return paddle.ones([])

    def update(self, lr: float, past_updates: int) -> Tensor:
        self.updates.append((lr, past_updates))
        return paddle.ones([])


def train(tmp_path: Path, schedule: Schedule, *, hooks: EpochHooks = NOTHING_BETWEEN) -> tuple[Step, Progress]:
    """Trains an epoch of five micro-batches, the seventh of its run."""
    write_tree(tmp_path, num_classes=1, train=10, val=1)
    splits = load_splits(
        DataOptions(data_dir=str(tmp_path)), TrainDataOptions(), num_classes=None, names_file=None, seed=0
    )
    preprocessing = Preprocessing(
        input_size=(3, 8, 8), crop_pct=1.0, crop_mode="center", interpolation="nearest", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    data = TrainingData(
        splits, preprocessing=preprocessing, augment=AugmentOptions(), mix=MixOptions(), smoothing=0.1,
        loader=LoaderOptions(num_workers=0), batch_size=2, eval_batch_size=2, seed=0, world=ONE,
    )  # fmt: skip
    step, log, progress = Step(), logging.getLogger("test"), Progress(epoch=6, update=18)
    train_one_epoch(
        step,  # type: ignore[arg-type]
        data,
        progress=progress,
        schedule=schedule,
        hooks=hooks,
        log=log,
        log_interval=50,
        world=ONE,
    )
    return step, progress


@pytest.mark.parametrize("t_in_epochs", [True, False])
def test_updates_are_counted_over_the_run_and_get_the_scheduled_rate(t_in_epochs: bool, tmp_path: Path) -> None:
    schedule = Schedule(ScheduleOptions(epochs=9, t_in_epochs=t_in_epochs), images_per_update=4)
    step, progress = train(tmp_path, schedule)
    assert (progress.update, progress.iteration) == (21, 5)
    assert step.groups == [(2, False), (2, True), (2, False), (2, True), (1, True)]
    smooth = Schedule(ScheduleOptions(epochs=9), images_per_update=4)
    parts = (0, 0, 0) if t_in_epochs else (0, 1 / 3, 2 / 3)
    assert [number for _, number in step.updates] == [18, 19, 20]
    assert [lr for lr, _ in step.updates] == pytest.approx([smooth.at(6 + part) for part in parts], rel=1e-12)


class Patience(StopRequest):
    """Notes for how long each batch is awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[float] = []

    def begin_waiting(self, *, patience: float) -> None:
        super().begin_waiting(patience=patience)
        self.noted.append(patience)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back what handles signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_the_patience_of_an_update_is_not_left_to_the_evaluation_after_it(tmp_path: Path) -> None:
    """Patient where a batch is one of an update's later ones, and never after the batch has come."""
    stop = Patience()
    train(tmp_path, Schedule(ScheduleOptions(epochs=9), images_per_update=4), hooks=replace(NOTHING_BETWEEN, stop=stop))
    assert stop.noted[::2] == [0.0, IN_UPDATE_PATIENCE, 0.0, IN_UPDATE_PATIENCE, 0.0]
    assert stop.noted[1::2] == [0.0] * 5
    stop.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StopWaiting):
        stop.check_waiting()
    stop.begin_waiting(patience=IN_UPDATE_PATIENCE)  # the control
    stop.check_waiting()
