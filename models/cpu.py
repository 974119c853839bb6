"""Operators that Paddle 3.3 computes slowly on a CPU, written with those that it computes fast; gradients included.

Each equals Paddle's own but for rounding. What Paddle is slow at, and what is done instead:

- sums over rows (the gradient of a bias, of a norm's scale): a product with a row of ones, which its BLAS does 50 times
  as fast;
- depth-wise convolution, forward and backward, one small product an image and channel: one product a channel with a
  banded matrix, since a row of the result is three rows of the image times a matrix of the 3x3 kernel's entries;
- the gradient of LayerNorm, one thread without vectors: row-wise arithmetic on whole tensors.

`applies` says whether they can stand in; programs and other devices keep Paddle's. Where gradients are taken, so do
models until `rewrite_gradients` is called, as train.py does: Paddle's PyLayer knows `backward`, once. With it a second
`backward` through a retained graph ends the process, and `paddle.grad` of an image alone, as for saliency, fails.

Legend: B batch, C channels, H W a map's height and width, P Q the result's, R rows of a matrix.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer, PyLayerContext

VIEWS = "FLAGS_use_stride_kernel"  # Paddle's flag: whether a transposed tensor is a view
_rewrites_gradients = False


def rewrite_gradients(wanted: bool = True) -> None:
    """Lets all models use the operators of this file also where gradients are taken, by one `backward` a graph.

    While Paddle makes views, which `util.runtime` turns off on a CPU, models keep Paddle's gradients: recomputation
    gives a PyLayer the memory of a view that it has saved without the order of its axes, and so wrong gradients.
    """
    global _rewrites_gradients
    _rewrites_gradients = wanted and not paddle.get_flags(VIEWS)[VIEWS]


def applies(x: Tensor) -> bool:
    """Whether the operators of this file may be used on x: float32 on a CPU, and no program is being written.

    The CPU must also be the current device, on which they make their constants.
    """
    if not paddle.in_dynamic_mode():  # of its own: what writes programs evaluates both sides of an `and`
        return False
    if paddle.is_grad_enabled() and not _rewrites_gradients:
        return False
    return x.place.is_cpu_place() and x.dtype == paddle.float32 and paddle.device.get_device() == "cpu"


def misses_frozen_weight(x: Tensor, weight: Tensor) -> bool:
    """Whether Paddle 3.3's layer_norm would give x a wrong gradient: on a CPU it leaves a frozen weight out of it."""
    if not paddle.in_dynamic_mode():
        return False
    return weight.stop_gradient and not x.stop_gradient and paddle.is_grad_enabled() and x.place.is_cpu_place()


def _row_sum(x: Tensor) -> Tensor:
    """(R, C) -> (C,)."""
    return paddle.matmul(paddle.ones([1, x.shape[0]]), x).reshape([x.shape[1]])


class Linear(PyLayer):
    """x W + b: x (..., C), weight (C, D), bias (D,) -> (..., D). The bias is added in place, not to a copy."""

    @staticmethod
    def forward(ctx: PyLayerContext, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.needs = [not t.stop_gradient for t in (x, weight, bias)]
        return paddle.matmul(x, weight).add_(bias)

    @staticmethod
    def backward(ctx: PyLayerContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensor()
        rows = grad.reshape([-1, weight.shape[1]])
        return _needed(
            ctx.needs,
            lambda: paddle.matmul(rows, weight, transpose_y=True).reshape(x.shape),
            lambda: paddle.matmul(x.reshape([-1, weight.shape[0]]), rows, transpose_x=True),
            lambda: _row_sum(rows),
        )


class ChannelBias(PyLayer):
    """x + b of each channel: x (B, C, H, W), bias (C,) -> (B, C, H, W)."""

    @staticmethod
    def forward(ctx: PyLayerContext, x: Tensor, bias: Tensor) -> Tensor:
        ctx.needs = [not t.stop_gradient for t in (x, bias)]
        return x + bias.reshape([1, -1, 1, 1])

    @staticmethod
    def backward(ctx: PyLayerContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        batch, channels, height, width = grad.shape
        return _needed(
            ctx.needs,
            lambda: grad,
            lambda: _row_sum(
                paddle.matmul(grad.reshape([-1, height * width]), paddle.ones([height * width, 1])).reshape(
                    [batch, channels]
                )
            ),
        )


class LayerNorm(PyLayer):
    """LayerNorm over the last axis: x (..., C), weight and bias (C,) -> the same shape; `epsilon` is its epsilon."""

    @staticmethod
    def forward(ctx: PyLayerContext, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        ctx.needs = [not t.stop_gradient for t in (x, weight, bias)]
        return F.layer_norm(x, x.shape[-1], weight, bias, epsilon)

    @staticmethod
    def backward(ctx: PyLayerContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensor()
        num_channels = weight.shape[0]
        mean_of = paddle.full([num_channels, 1], 1.0 / num_channels)
        rows, grad = x.reshape([-1, num_channels]), grad.reshape([-1, num_channels])
        centred = rows - paddle.matmul(rows, mean_of)
        rstd = paddle.rsqrt(paddle.matmul(centred * centred, mean_of) + ctx.epsilon)  # (R, 1)
        product = grad * centred

        def to_input() -> Tensor:
            # rstd (g - mean(g) - xhat mean(g xhat)), with g = grad weight, and both means as products with weight
            scale = weight.reshape([num_channels, 1]) * (1.0 / num_channels)
            mean_g, mean_gx = paddle.matmul(grad, scale), paddle.matmul(product, scale) * rstd * rstd
            inner = (grad * weight).subtract_(centred * mean_gx)
            return inner.subtract_(mean_g).multiply_(rstd).reshape(x.shape)

        return _needed(
            ctx.needs,
            to_input,
            lambda: paddle.matmul(rstd, product, transpose_x=True).reshape([num_channels]),
            lambda: _row_sum(grad),
        )


class DepthwiseConv(PyLayer):
    """3x3 depth-wise convolution, padding 1: x (B, C, H, W), weight (C, 1, 3, 3) -> (B, C, P, Q), P = ceil(H / stride).

    Channels go first, (C, B, P, 3 W): each row of the result from the three rows of the image above one another, by a
    product with the channel's banded matrix (3 W, Q). The gradient of x is the same with the matrix transposed.
    """

    @staticmethod
    def forward(ctx: PyLayerContext, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        ctx.needs = [not t.stop_gradient for t in (x, weight)]
        batch, channels, height, width = x.shape
        plan = _plan(batch, channels, height, width, stride)
        matrix = paddle.matmul(weight.reshape([channels, 9]), plan.band).reshape([channels, 3 * width, -1])
        out = paddle.matmul(_gather_rows(x, plan.forward_rows).reshape([channels, -1, 3 * width]), matrix)
        return _swap_outer(out, channels, batch).reshape([batch, channels, -(-height // stride), matrix.shape[2]])

    @staticmethod
    def backward(ctx: PyLayerContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensor()
        batch, channels, height, width = x.shape
        plan = _plan(batch, channels, height, width, ctx.stride)
        columns = grad.shape[3]

        def to_input() -> Tensor:
            flat = paddle.matmul(weight.reshape([channels, 9]), plan.transposed_band)
            matrix = flat.reshape([channels, 3 * columns, width])
            rows = _gather_rows(grad, plan.backward_rows).reshape([channels, -1, 3 * columns])
            return _swap_outer(paddle.matmul(rows, matrix), channels, batch).reshape(x.shape)

        def to_weight() -> Tensor:
            rows = _gather_rows(x, plan.forward_rows).reshape([channels, -1, 3 * width])
            by_channel = _swap_outer(grad, batch, channels).reshape([channels, -1, columns])
            matrix = paddle.matmul(rows, by_channel, transpose_x=True).reshape([channels, -1])
            return paddle.matmul(matrix, plan.band, transpose_y=True).reshape(weight.shape)

        return _needed(ctx.needs, to_input, to_weight)


@dataclass(frozen=True)
class _Plan:
    """Which rows a depth-wise convolution gathers, and where the 9 entries of a kernel stand in its matrix."""

    forward_rows: Tensor  # (C B P 3,) rows of the image, one past the last is zero
    backward_rows: Tensor  # (C B H 3,) rows of the result's gradient, likewise
    band: Tensor  # (9, 3 W Q) of zeros and ones
    transposed_band: Tensor  # (9, 3 Q W)


@functools.lru_cache(maxsize=16)  # a run needs one a stage and stride; an index is 3 / W of its image
def _plan(batch: int, channels: int, height: int, width: int, stride: int) -> _Plan:
    out_height, out_width = -(-height // stride), -(-width // stride)
    # kernel row and column, row and column of the image, column of the result
    band = np.zeros((3, 3, 3, width, out_width), np.float32)
    for row, column, out in np.ndindex(3, 3, out_width):
        if 0 <= (source := out * stride + column - 1) < width:
            band[row, column, row, source, out] = 1.0
    taken = np.arange(out_height)[:, None] * stride + np.arange(3) - 1  # (P, 3)
    given, rest = np.divmod(np.arange(height)[:, None] + 1 - np.arange(3), stride)  # (H, 3)
    given[rest != 0] = -1
    return _Plan(
        _row_index(batch, channels, taken, height),
        _row_index(batch, channels, given, out_height),
        paddle.to_tensor(band.reshape(9, -1)),
        paddle.to_tensor(band.swapaxes(3, 4).reshape(9, -1)),
    )


def _row_index(batch: int, channels: int, rows: np.ndarray, height: int) -> Tensor:
    """Returns which rows of a (B, C, height, W), flattened, make up (C, B, *rows.shape, W); none: one past the last."""
    image = np.arange(batch)[None, :, None, None] * channels + np.arange(channels)[:, None, None, None]
    index = np.where((rows >= 0) & (rows < height), image * height + rows, batch * channels * height)
    return paddle.to_tensor(index.reshape(-1).astype(np.int32))


def _gather_rows(x: Tensor, index: Tensor) -> Tensor:
    rows = x.reshape([-1, x.shape[3]])
    return paddle.gather(paddle.concat([rows, paddle.zeros([1, x.shape[3]])]), index)


def _swap_outer(x: Tensor, outer: int, inner: int) -> Tensor:
    """(outer, inner, ...) -> (inner outer, -1). A gather copies whole rows, a transposition value by value."""
    return paddle.gather(x.reshape([outer * inner, -1]), _swapped(outer, inner))


@functools.lru_cache(maxsize=16)
def _swapped(outer: int, inner: int) -> Tensor:
    return paddle.to_tensor(np.arange(outer * inner, dtype=np.int32).reshape(outer, inner).T.reshape(-1))


def _needed(needs: Sequence[bool], *gradients: Callable[[], Tensor]) -> tuple[Tensor | None, ...]:
    """Returns the gradients of the inputs that need one, and None for the others."""
    return tuple(gradient() if need else None for need, gradient in zip(needs, gradients, strict=True))
