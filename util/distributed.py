"""The device and the processes of a job."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from util.errors import UsageError
from util.runtime import resolve_device

SELECTED_GPUS = "FLAGS_selected_gpus"  # set by the launcher


@dataclass(frozen=True)
class World:
    """This process among those of the job."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Returns the element-wise float64 sum of every process's array (same shape everywhere)."""
        if self.size == 1:
            return values.astype(np.float64)
        tensor = paddle.to_tensor(values.astype(np.float64))
        dist.all_reduce(tensor)
        return tensor.numpy()

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Returns the element-wise float64 maximum of every process's array (same shape everywhere)."""
        tensor = paddle.to_tensor(values.astype(np.float64))
        if self.size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.numpy()

    def mean_(self, tensors: list[paddle.Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.scale_(1.0 / self.size)

    def gather(self, value: Any) -> list[Any]:
        """Returns every process's picklable value, by rank. The job's own processes are trusted."""
        if self.size == 1:
            return [value]
        values: list[Any] = []
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


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
    if size > 1:
        dist.init_parallel_env()
    return World(rank=int(os.environ.get("PADDLE_TRAINER_ID", "0")), size=size), notes
