"""What an epoch adds up: losses, norms of gradients, times."""

import math
import time
from dataclasses import dataclass

import paddle
from paddle import Tensor


@dataclass
class EpochSums:
    """What this process adds up in an epoch: numbers that a checkpoint can hold, for a resumed epoch to go on with."""

    loss: float = 0.0
    count: int = 0
    norm: float = 0.0
    norms: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    lr: float = 0.0


@dataclass(frozen=True)
class Window:
    """Means over the iterations since the last line of the log, and over the epoch so far; seconds an iteration."""

    loss: float
    epoch_loss: float
    seconds: float
    epoch_seconds: float
    wait: float


@dataclass(frozen=True)
class Iteration:
    """An iteration whose loss is still on the device, with the gradient's norm if an update ended with it."""

    number: int
    lr: float
    loss: Tensor
    indices: Tensor
    norm: Tensor | None


@dataclass(frozen=True)
class Broken:
    """An iteration whose loss, or the norm of whose gradient, is not finite.

    indices: the images of this process that it was computed from: a gradient's are those of the whole update.
    """

    iteration: Iteration
    what: str
    in_gradient: bool
    indices: list[Tensor]


class Meter:
    """Losses, gradient norms and times of an epoch; they stay on the device until somebody needs them.

    skips: whether an update whose gradient is not finite is skipped, as fp16's GradScaler does.
    """

    def __init__(self, sums: EpochSums, *, skips: bool) -> None:
        self.sums = sums
        self.skips = skips
        self._pending: list[Iteration] = []
        self._updates: dict[int, list[Tensor]] = {}  # indices of each pending update, by its last iteration
        self._update: list[Tensor] = []  # of the one that has not ended
        self._window: list[float] = []
        self._started = time.perf_counter()
        self._window_seconds, self._window_waited = 0.0, 0.0

    def add(self, iteration: Iteration, wait: float) -> None:
        """Counts an iteration that waited `wait` seconds for its data."""
        self._pending.append(iteration)
        self._update.append(iteration.indices)
        if iteration.norm is not None:
            self._updates[iteration.number], self._update = self._update, []
        self.sums.waited += wait
        self._window_waited += wait

    def absorb(self) -> Broken | None:
        """Waits for the device and adds up what it has computed; returns the first thing that is not finite.

        Numbers are added one by one, so that sums do not depend on when this is called.
        """
        pending, self._pending = self._pending, []
        updates, self._updates = self._updates, {}
        broken: Broken | None = None
        losses = _to_host([iteration.loss for iteration in pending])
        norms = iter(_to_host([iteration.norm for iteration in pending if iteration.norm is not None]))
        for iteration, loss in zip(pending, losses, strict=True):
            self.sums.loss += loss
            if not math.isfinite(loss):
                broken = broken or Broken(iteration, f"the loss is {loss}", False, [iteration.indices])
            if iteration.norm is None:
                continue
            norm = next(norms)
            if math.isfinite(norm):
                self.sums.norm += norm
                self.sums.norms += 1
            elif self.skips:
                self.sums.skipped += 1
            else:
                indices = updates[iteration.number]
                broken = broken or Broken(iteration, f"the norm of the gradient is {norm}", True, indices)
        self.sums.count += len(losses)
        self._window += losses
        self._take_time()
        return broken

    def _take_time(self) -> None:
        now = time.perf_counter()
        self.sums.seconds += now - self._started
        self._window_seconds += now - self._started
        self._started = now

    def window(self) -> Window:
        """Ends a window of the log; what the device has computed must be absorbed."""
        window = Window(
            loss=sum(self._window) / len(self._window),
            epoch_loss=self.sums.loss / self.sums.count,
            seconds=self._window_seconds / len(self._window),
            epoch_seconds=self.sums.seconds / self.sums.count,
            wait=self._window_waited / len(self._window),
        )
        self._window, self._window_seconds, self._window_waited = [], 0.0, 0.0
        return window


def _to_host(tensors: list[Tensor]) -> list[float]:
    return paddle.stack(tensors).numpy().tolist() if tensors else []
