"""One optimizer update: accumulate the gradient of its micro-batches, clip, step, average."""

import contextlib

import paddle
from paddle import Tensor

from util.distributed import World, naming_lost_peers
from util.errors import NonFiniteLossError
from util.options import OptimOptions, PrecisionOptions
from util.train.checkpoint import TrainState
from util.train.clip import gradient_norm, make_clip
from util.train.loss import Loss
from util.train.precision import autocast, skipped

MAX_SKIPPED = 20  # updates in a row whose gradient overflowed; from 65536, the scale is then below 0.1


class TrainStep:
    """Trains a run's state on micro-batches; nothing here waits for the device, except
    fp16's GradScaler, which must know whether the gradient overflowed.

    With several processes, gradients are averaged over them, at the last micro-batch of an update only.
    """

    def __init__(
        self, state: TrainState, *, optim: OptimOptions, precision: PrecisionOptions, loss: Loss, world: World
    ) -> None:
        world.barrier()  # DataParallel hands the first process's weights to the others
        self.collective = naming_lost_peers if world.size > 1 else contextlib.nullcontext
        with self.collective():
            self.model = paddle.DataParallel(state.model) if world.size > 1 else state.model
        self.optimizer = state.optimizer
        self.ema = state.ema
        self.scaler = state.scaler
        self.loss = loss
        self.update_freq = optim.update_freq
        self.precision = precision
        self.parameters = [p for p in state.model.parameters() if not p.stop_gradient]
        self.progress = state.progress
        limit = optim.clip_grad
        self.clip = None if limit is None else make_clip(state.model, mode=optim.clip_mode, limit=limit)

    def accumulate(self, images: Tensor, targets: Tensor, *, group_size: int, last: bool) -> Tensor:
        """Adds the gradient of one micro-batch, images (B, 3, H, W), targets (B, K); returns its mean loss, detached.

        group_size: micro-batches of this update; last: whether this is the update's last.
        """
        local = isinstance(self.model, paddle.DataParallel) and not last
        with self.model.no_sync() if local else contextlib.nullcontext():
            with autocast(self.precision):
                logits = self.model(images)
            loss = self.loss(logits, targets)
            with self.collective():
                self.scaler.scale(loss / group_size).backward()
        return loss.detach()

    @paddle.no_grad()
    def update(self, lr: float, past_updates: int) -> Tensor:
        """Clips, steps, moves the average, clears the gradients; returns the gradient's norm before clipping.

        past_updates: how many updates the run made before this one, skipped ones included.

        When fp16 overflowed, the norm is not finite, and neither the weights nor the average move; 20 times in a row,
        that is a NonFiniteLossError.
        """
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.parameters)
        if self.clip is not None:
            self.clip(norm)
        self.optimizer.set_lr(lr)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad(set_to_zero=False)
        if skipped(self.scaler):
            self._count_skipped(past_updates)
        else:
            self.progress.skipped_in_a_row = 0
            if self.ema is not None:
                self.ema.update(past_updates)
        return norm

    def loss_scale(self) -> float:
        """Returns what the loss is multiplied by; waits for the device."""
        return float(self.scaler.state_dict()["scale"].item()) if self.scaler.is_enable() else 1.0

    def _count_skipped(self, past_updates: int) -> None:
        self.progress.skipped_in_a_row += 1
        if self.progress.skipped_in_a_row >= MAX_SKIPPED:
            raise NonFiniteLossError(
                f"the gradient overflowed in {MAX_SKIPPED} updates in a row, up to update {past_updates} (loss scale "
                f"{self.loss_scale():g}); nothing was saved since the last checkpoint. Use --amp_dtype bfloat16, a "
                "lower --lr or --clip_grad 1"
            )
