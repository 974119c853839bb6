"""One optimizer update: accumulate the gradient of its micro-batches, clip, step, average."""

import contextlib

import paddle
from paddle import Tensor

from util.distributed import World
from util.options import OptimOptions
from util.train.checkpoint import TrainState
from util.train.loss import soft_cross_entropy


def gradient_norm(parameters: list[Tensor]) -> Tensor:
    """Returns the L2 norm of all gradients together, a scalar on the device."""
    squares = [paddle.sum(p.grad.astype("float32") ** 2) for p in parameters if p.grad is not None]
    return paddle.sqrt(paddle.sum(paddle.stack(squares)))


class TrainStep:
    """Trains a run's state on micro-batches; nothing here waits for the device, except
    fp16's GradScaler, which must know whether the gradient overflowed.

    With several processes, gradients are averaged over them, at the last micro-batch of an update only.
    """

    def __init__(self, state: TrainState, options: OptimOptions, world: World) -> None:
        self.model = paddle.DataParallel(state.model) if world.size > 1 else state.model
        self.optimizer = state.optimizer
        self.options = options
        self.ema = state.ema
        self.scaler = state.scaler
        self.parameters = [p for p in state.model.parameters() if not p.stop_gradient]

    def accumulate(self, images: Tensor, targets: Tensor, *, group_size: int, last: bool) -> Tensor:
        """Adds the gradient of one micro-batch, images (B, 3, H, W), targets (B, K); returns its mean loss, detached.

        group_size: micro-batches of this update; last: whether this is the update's last.
        """
        local = isinstance(self.model, paddle.DataParallel) and not last
        with self.model.no_sync() if local else contextlib.nullcontext():
            with paddle.amp.auto_cast(enable=self.options.amp, dtype=self.options.amp_dtype):
                logits = self.model(images)
            loss = soft_cross_entropy(logits, targets)
            self.scaler.scale(loss / group_size).backward()
        return loss.detach()

    @paddle.no_grad()
    def update(self, lr: float) -> Tensor:
        """Clips, steps, updates the average, clears the gradients; returns the gradient's norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.parameters)
        self._clip(norm)
        self.optimizer.set_lr(lr)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad(set_to_zero=False)
        if self.ema is not None:
            self.ema.update()
        return norm

    def _clip(self, norm: Tensor) -> None:
        limit = self.options.clip_grad
        if limit is None:
            return
        if self.options.clip_mode == "norm":
            factor = paddle.clip(limit / (norm + 1e-6), max=1.0)
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            if self.options.clip_mode == "norm":
                parameter.grad.multiply_(factor.astype(parameter.grad.dtype))
            else:
                parameter.grad.clip_(-limit, limit)
