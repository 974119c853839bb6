"""The device and the processes of a job."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from util.errors import ResumableError, UsageError
from util.processes import follow_parent
from util.runtime import resolve_device

SELECTED_GPUS = "FLAGS_selected_gpus"  # set by the launcher


@dataclass(frozen=True)
class World:
    """This process among those of the job."""

    rank: int
    size: int
    control: Any = None  # the group of `agree`; None: the default one

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def agree(self, *numbers: int) -> list[int]:
        """Returns the largest of what every process says, number by number, each below 2 ** 24.

        It goes from host to host and waits for no device, so it can be asked before every update.
        """
        if self.size == 1:
            return list(numbers)
        tensor = paddle.to_tensor(np.asarray(numbers, np.float32), place=paddle.CPUPlace())
        with naming_lost_peers():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.control)
        return [int(number) for number in tensor.numpy()]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Returns the element-wise float64 sum of every process's array (same shape everywhere)."""
        if self.size == 1:
            return values.astype(np.float64)
        tensor = paddle.to_tensor(values.astype(np.float64))
        with naming_lost_peers():
            dist.all_reduce(tensor)
        return tensor.numpy()

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Returns the element-wise float64 maximum of every process's array (same shape everywhere)."""
        tensor = paddle.to_tensor(values.astype(np.float64))
        if self.size > 1:
            with naming_lost_peers():
                dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.numpy()

    def mean_(self, tensors: list[paddle.Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            with naming_lost_peers():
                dist.all_reduce(tensor)
            tensor.scale_(1.0 / self.size)

    def gather(self, value: Any) -> list[Any]:
        """Returns every process's picklable value, by rank. The job's own processes are trusted."""
        if self.size == 1:
            return [value]
        values: list[Any] = []
        with naming_lost_peers():
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Waits for every process."""
        self.agree(0)


# what gloo, NCCL and the store through which processes meet say when a peer is gone
_LOST = ("gloo", "nccl", "connection", "socket", "tcp", "timed out", "timeout", "broken pipe", "peer")


@contextlib.contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Turns the errors of a collective operation whose other processes are gone into a ResumableError of one line."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        text = str(error).strip()
        if not any(word in text.lower() for word in _LOST):
            raise
        reason = text.splitlines()[-1] if text else type(error).__name__
        raise ResumableError(
            f"another process of this job ended, whose own message says why ({reason[:200]})"
        ) from None


def start(device: str) -> tuple[World, list[str]]:
    """Chooses the device and joins the other processes, if the launcher started some.

    device: `auto` (a GPU if there is one), `cpu`, `gpu`, `gpu:N`, `xpu` or `npu`. Returns also what is worth a line in
    the log.
    """
    notes = []
    device = resolve_device(device)
    size = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if size > 1 and ":" in device:
        raise UsageError(f"--device {device} with {size} processes: every process would use it; leave out the number")
    if device == "cpu":
        if os.environ.pop(SELECTED_GPUS, None) is not None:
            notes.append("the launcher chose GPUs, but there are none: using the CPU, processes joined by gloo")
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
    try:
        paddle.device.set_device(device)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from None
    control = None
    if size > 1:
        follow_parent()
        with naming_lost_peers():
            dist.init_parallel_env()
            if device != "cpu":
                control = dist.new_group(backend="gloo")
    return World(rank=int(os.environ.get("PADDLE_TRAINER_ID", "0")), size=size, control=control), notes
