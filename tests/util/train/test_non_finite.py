"""What is not finite is named with the process and the images that it may come from."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest

from util.data.image_list import ImageList
from util.distributed import World
from util.errors import NonFiniteLossError
from util.train.epoch import refuse_non_finite
from util.train.meter import EpochSums, Iteration, Meter
from util.train.progress import Progress

NAN, PROCESSES, BATCH, UPDATE_FREQ = float("nan"), 2, 3, 2


class Together(World):
    """Processes that are threads."""

    def __init__(self, rank: int, barrier: threading.Barrier, said: list[Any]) -> None:
        super().__init__(rank=rank, size=len(said))
        object.__setattr__(self, "barrier_", barrier)
        object.__setattr__(self, "said", said)

    def gather(self, value: Any) -> list[Any]:
        self.said[self.rank] = value  # type: ignore[attr-defined]
        self.barrier_.wait(10)  # type: ignore[attr-defined]
        found = list(self.said)  # type: ignore[attr-defined]
        self.barrier_.wait(10)  # type: ignore[attr-defined]
        return found

    def agree(self, *numbers: int) -> list[int]:
        return [max(column) for column in zip(*self.gather(numbers), strict=True)]


def errors_of(losses: list[list[float]], norms: list[float], *, batch: int = BATCH, absorb_at: int = -1) -> list[str]:
    """Returns what each process raises after updates of two micro-batches; '' for nothing.

    losses: of each process and iteration; norms: of each update; absorb_at: an iteration with a line of the log.
    Image i of process r in iteration t is number 100 t + 10 r + i, counted in files of that name.
    """
    paths = [str(number) for number in range(1000)]
    images = ImageList(Path("d"), paths, np.zeros(1000, np.int64), None)
    data = SimpleNamespace(splits=SimpleNamespace(train=images))
    step = SimpleNamespace(update_freq=UPDATE_FREQ, scaler=paddle.amp.GradScaler(enable=False))
    barrier, said, raised = threading.Barrier(len(losses)), [None] * len(losses), [""] * len(losses)

    def process(rank: int) -> None:
        world = Together(rank, barrier, said)
        meter, progress = Meter(EpochSums(), skips=False), Progress(epoch=1, update=7)
        try:
            for t, loss in enumerate(losses[rank]):
                ends = t % UPDATE_FREQ == UPDATE_FREQ - 1
                indices = paddle.to_tensor([100 * t + 10 * rank + i for i in range(batch)])
                norm = paddle.to_tensor(norms[t // UPDATE_FREQ]) if ends else None
                meter.add(Iteration(t, 0.1, paddle.to_tensor(loss), indices, norm), 0.0)
                if ends:
                    progress.update, progress.iteration = progress.update + 1, t + 1
                if t in (absorb_at, len(losses[rank]) - 1):
                    refuse_non_finite(meter, step, data, progress, world)  # type: ignore[arg-type]
        except NonFiniteLossError as error:
            raised[rank] = str(error)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(len(losses))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_finite_numbers_are_no_error() -> None:
    assert errors_of([[1.0] * 4, [2.0] * 4], [3.0, 3.0]) == ["", ""]


@pytest.mark.parametrize("absorb_at", [-1, 2])
def test_a_gradient_may_come_from_any_process_and_micro_batch_of_its_update(absorb_at: int) -> None:
    """Also where a line of the log came between the micro-batches of the update."""
    first, second = errors_of([[1.0] * 4, [2.0] * 4], [3.0, NAN], absorb_at=absorb_at)
    assert first == second
    assert first.startswith(
        "the norm of the gradient is nan on any of the processes at epoch 1, iteration 3, update 8 (learning rate "
        "0.1), with the images d/200, d/210, d/201, d/211, d/202, d/212, d/300, d/310, d/301, d/311, d/302, d/312; "
    )


def test_no_more_than_sixteen_images_are_named_and_some_of_each_process() -> None:
    error, _ = errors_of([[1.0] * 2, [2.0] * 2], [NAN], batch=10)
    named = error.partition("with the images ")[2].partition(";")[0]
    assert named.endswith("d/7, d/17 and 24 more")
    assert named.count("d/") == 16


def test_a_loss_is_its_own_process_s() -> None:
    for error in errors_of([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, NAN]], [3.0, NAN]):
        assert error.startswith("the loss is nan on process 1 at epoch 1, iteration 3, update 8 ")
        assert "with the images d/310, d/311, d/312; nothing was saved" in error


def test_one_process_alone_has_no_number() -> None:
    [error] = errors_of([[1.0, 1.0]], [NAN])
    assert error.startswith("the norm of the gradient is nan at epoch 1, iteration 1, update 7 ")
    assert "with the images d/0, d/1, d/2, d/100, d/101, d/102; nothing" in error
    [error] = errors_of([[NAN, 1.0]], [NAN])
    assert "the loss is nan at epoch 1, iteration 0" in error
    assert "with the images d/0, d/1, d/2; nothing" in error
