"""The device and the processes of a job."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from util.control import Control, LostPeerError
from util.errors import UsageError
from util.processes import follow_parent
from util.runtime import resolve_device

SELECTED_GPUS = "FLAGS_selected_gpus"  # set by the launcher


@dataclass(frozen=True)
class World:
    """This process among those of the job."""

    rank: int
    size: int
    control: Control | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def agree(self, *numbers: int) -> list[int]:
        """Returns the largest of what every process says, number by number.

        It goes from host to host, waits for no device and for the other processes as long as they live, so it can be
        asked before every update.
        """
        if self.control is None:
            return list(numbers)
        return self.control.agree(list(numbers), is_main=self.is_main)

    def barrier(self) -> None:
        """Waits for every process, as long as it lives."""
        self.agree(0)

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """For a collective operation, which gives up on a process that comes late: all begin with it together."""
        self.barrier()
        with naming_lost_peers():
            yield

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Returns the element-wise float64 sum of every process's array (same shape everywhere)."""
        if self.size == 1:
            return values.astype(np.float64)
        tensor = paddle.to_tensor(values.astype(np.float64))
        with self._together():
            dist.all_reduce(tensor)
        return tensor.numpy()

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Returns the element-wise float64 maximum of every process's array (same shape everywhere)."""
        tensor = paddle.to_tensor(values.astype(np.float64))
        if self.size > 1:
            with self._together():
                dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.numpy()

    def mean_(self, tensors: list[paddle.Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, in place."""
        if self.size == 1:
            return
        with self._together():
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor.scale_(1.0 / self.size)

    def gather(self, value: Any) -> list[Any]:
        """Returns every process's picklable value, by rank. The job's own processes are trusted."""
        if self.size == 1:
            return [value]
        values: list[Any] = []
        with self._together():
            dist.all_gather_object(values, value)
        return values


# what gloo, NCCL and the store through which processes meet say when a peer is gone
_LOST = ("gloo", "nccl", "connection", "socket", "tcp", "timed out", "broken pipe")


@contextlib.contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Turns the errors of a collective operation whose other processes are gone into a LostPeerError of one line."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        text = str(error).strip()
        if not any(word in text.lower() for word in _LOST):
            raise
        raise LostPeerError(
            f"another process of this job ended, or did not answer in time ({text.splitlines()[-1][:200]}); its own "
            "message says why"
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
    rank = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
    control = None
    if size > 1:
        follow_parent()
        with naming_lost_peers():
            dist.init_parallel_env()
            control = Control.meet(rank=rank, share=_from_the_main_process)
    return World(rank=rank, size=size, control=control), notes


def _from_the_main_process(value: Any) -> Any:
    values: list[Any] = []
    dist.all_gather_object(values, value)
    return values[0]
