"""Automatic mixed precision: which operators compute in half precision, and the scale of float16's loss.

Parameters, their gradients, the optimizer's state, the average and every checkpoint stay float32 at both levels:
`paddle.amp.decorate`, which would make the parameters half, is not used. So a resumed run is exact, and no small update
is lost in a weight's rounding. auto_cast casts the weights wherever they are used.

By itself, auto_cast then gains little from O2: an operator that is in no list computes in float32 as soon as one input
is float32, as the parameters are, so that O2 differs from O1 in having softmax and norms in half precision. The lists
here make the levels mean what their help says:

- O1: products (linear layers, dense convolutions, attention) in half precision.
- O2: also depth-wise convolutions, and the sums, element-wise products and concatenations that would bring float32
  parameters to the tokens. All that is in no list follows its input, so the residual path is half.
- Both: norms, softmax, losses, sums and means, exponentials, logarithms and square roots in float32.

Lists, and not auto_cast's use_promote=False, because recomputation (grad_checkpointing) restores the lists only.
Paddle casts nothing for SyncBatchNorm; its kernel sums half inputs in float32, and its statistics are float32.
"""

from contextlib import AbstractContextManager

import paddle

from util.options import PrecisionOptions

# by the names that auto_cast knows
FLOAT32_OPS = (
    "batch_norm", "layer_norm", "group_norm", "softmax", "log_softmax", "softmax_with_cross_entropy",
    "sigmoid_cross_entropy_with_logits", "mean", "reduce_mean", "reduce_sum", "logsumexp", "p_norm", "exp", "log",
    "square", "sqrt", "rsqrt",
)  # fmt: skip
HALF_OPS_O2 = ("depthwise_conv2d", "elementwise_add", "elementwise_mul", "concat")


def autocast(options: PrecisionOptions) -> AbstractContextManager[None]:
    """Returns the context in which the model runs in training; evaluation is float32."""
    return paddle.amp.auto_cast(
        enable=options.amp,
        level=options.amp_level,
        dtype=options.amp_dtype,
        custom_white_list=HALF_OPS_O2 if options.amp_level == "O2" else None,
        custom_black_list=FLOAT32_OPS,
    )


class LossScaler(paddle.amp.GradScaler):
    """GradScaler that halves its scale at every overflow, without a word.

    Paddle's prints, on the standard output of every process, and for that makes a number of an array of shape (1,),
    which NumPy refuses since 2.4: there the first overflow would end the run.
    """

    _scale: paddle.Tensor
    _incr_count: int

    def _update(self) -> None:
        self._incr_count = 0 if skipped(self) else self._incr_count + 1
        if skipped(self):
            self._scale = self._scale * self._decr_ratio
        elif self._incr_count == self._incr_every_n_steps:
            self._scale = self._scale * self._incr_ratio
            self._incr_count = 0


def skipped(scaler: paddle.amp.GradScaler) -> bool:
    """Whether the last `step` left the weights alone because a gradient overflowed; `step` has waited to know it."""
    return scaler.is_enable() and bool(scaler._cache_found_inf)


def make_scaler(options: PrecisionOptions) -> paddle.amp.GradScaler:
    """Returns what scales the loss, so that float16's small gradients do not vanish; off in the other types.

    The scale starts at 65536, doubles after 2000 good updates in a row and halves when a gradient overflows.
    """
    return LossScaler(
        enable=options.amp and options.amp_dtype == "float16",
        init_loss_scaling=2.0**16,
        incr_ratio=2.0,
        decr_ratio=0.5,
        incr_every_n_steps=2000,
    )
