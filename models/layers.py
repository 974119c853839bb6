"""Building blocks that two or more families share.

B batch, N tokens, C channels, H W token grid, h heads, d head dim, T query tokens, S key tokens.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

from models import cpu

QUICK_GELU_SLOPE = 1.702


def quick_gelu(x: Tensor) -> Tensor:
    """Returns x * sigmoid(1.702 x), the GELU approximation of CvT and CLIP; any shape.

    Written through `silu` because `F.sigmoid` cannot be exported to the `.pdmodel` format.
    """
    return F.silu(QUICK_GELU_SLOPE * x) / QUICK_GELU_SLOPE


def gelu(x: Tensor) -> Tensor:
    """Returns x * Phi(x), the exact GELU (arXiv 1606.08415); any shape.

    In exports it is written out, because `F.gelu` cannot be exported to the `.pdmodel` format.
    """
    if paddle.in_dynamic_mode():
        return F.gelu(x)
    return 0.5 * x * (1.0 + paddle.erf(x / math.sqrt(2.0)))


def gelu_tanh(x: Tensor) -> Tensor:
    """Returns GELU's approximation x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (arXiv 1606.08415); any shape.

    In exports through `silu`, because `paddle.tanh` cannot be exported to `.pdmodel`: (1 + tanh u)/2 = sigmoid(2u).
    """
    if paddle.in_dynamic_mode():
        return F.gelu(x, approximate=True)
    slope = 2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 0.044715 * x * x)  # 2u / x, never 0
    return F.silu(slope * x) / slope


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "gelu_tanh": gelu_tanh}


def map_to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return x.flatten(2).transpose([0, 2, 1])


def tokens_to_map(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H W, C) -> (B, C, H, W)."""
    # 0 copies the batch axis: a literal shape, which the static graphs keep free of shape arithmetic
    x = x.transpose([0, 2, 1]).reshape([0, x.shape[2], height, width])
    if not paddle.in_dynamic_mode():
        return x
    return x.contiguous()  # on a GPU it is a view so far, which each convolution would copy for itself


def swap_heads(x: Tensor) -> Tensor:
    """(B, N, h, d) <-> (B, h, N, d)."""
    return x.transpose([0, 2, 1, 3])


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, C) -> (B, h, N, d)."""
    return swap_heads(x.reshape([0, 0, num_heads, x.shape[2] // num_heads]))


def merge_heads(x: Tensor) -> Tensor:
    """(B, h, N, d) -> (B, N, C)."""
    return swap_heads(x).flatten(2)


class Linear(nn.Linear):
    """Paddle's, (..., C) -> (..., D), through `cpu.Linear` where that applies."""

    def forward(self, x: Tensor, *, weight_scale: float = 1.0, bias_scale: float = 1.0) -> Tensor:
        weight = self.weight if weight_scale == 1.0 else self.weight * weight_scale
        bias = self.bias if bias_scale == 1.0 else self.bias * bias_scale
        if bias is not None and cpu.applies(x):
            return cpu.Linear.apply(x, weight, bias)
        return F.linear(x, weight, bias)


class LayerNorm(nn.LayerNorm):
    """Paddle's over the last axis, (..., C) -> same shape, through `cpu.LayerNorm` where that applies."""

    def forward(self, x: Tensor) -> Tensor:
        if cpu.applies(x):
            return cpu.LayerNorm.apply(x, self.weight, self.bias, self._epsilon)
        if cpu.misses_frozen_weight(x, self.weight):
            return F.layer_norm(x, x.shape[-1:], epsilon=self._epsilon) * self.weight + self.bias
        return super().forward(x)


class Conv2D(nn.Conv2D):
    """Paddle's with a bias, (B, C, H, W) -> (B, D, P, Q), the bias through `cpu.ChannelBias` where that applies."""

    def __init__(self, in_chans: int, dim: int, kernel_size: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__(in_chans, dim, kernel_size, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        if not cpu.applies(x):
            return super().forward(x)
        x = F.conv2d(x, self.weight, stride=self._stride, padding=self._padding)
        return cpu.ChannelBias.apply(x, self.bias)


class DepthwiseConv2D(nn.Conv2D):
    """Depth-wise 3x3 convolution without bias, padding 1, (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)).

    Through `cpu.DepthwiseConv` where that applies and a row is short: its work grows with the square of the width.
    """

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__(dim, dim, 3, stride=stride, padding=1, groups=dim, bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3] <= 96 and cpu.applies(x):
            return cpu.DepthwiseConv.apply(x, self.weight, self._stride[0])
        return super().forward(x)


# of a block's two residual branches: factors (B, 1, 1), None leaves a branch as it is
Keep = tuple[Tensor | None, Tensor | None]
KEEP_ALL: Keep = (None, None)


class StochasticDepth(nn.Layer):
    """Stochastic depth (arXiv 1603.09382) of consecutive blocks: drops residual branches, each sample's on its own.

    rates: the probability of a drop in each block. All blocks are drawn at once, which takes few kernels.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self.rates = tuple(rates)

    def forward(self, batch: int) -> list[Keep]:
        """Returns each block's factors for `add_branch`: 1 / (1 - rate) with that probability, else 0."""
        if not self.training or not any(self.rates):
            return [KEEP_ALL] * len(self.rates)
        keep_prob = _keep_prob(self.rates, paddle.device.get_device())
        draws = paddle.rand([2 * len(self.rates), batch, 1, 1], dtype="float32")
        factors = keep_factors(draws, keep_prob).unbind(0)
        pairs = zip(factors[::2], factors[1::2], strict=True)
        return [pair if rate else KEEP_ALL for rate, pair in zip(self.rates, pairs, strict=True)]


@functools.lru_cache(maxsize=16)  # made once, not copied to the device at each step
def _keep_prob(rates: tuple[float, ...], device: str) -> Tensor:
    """Returns 1 - rate for both branches of each block, float32 (2 blocks, 1, 1, 1) on the current device."""
    return paddle.to_tensor(1.0 - np.repeat(np.array(rates, np.float32), 2).reshape([-1, 1, 1, 1]))


def keep_factors(draws: Tensor, keep_prob: Tensor) -> Tensor:
    """Returns 1 / keep_prob where a draw from [0, 1) is below keep_prob, else 0; float32, of any shape."""
    # compared, not added: mixed precision would add in half precision, and so change small rates
    return (draws < keep_prob).astype("float32") / keep_prob


def add_branch(x: Tensor, branch: Tensor, keep: Tensor | None) -> Tensor:
    """Returns x + keep * branch: x and branch (B, ...), keep (B, 1, 1) or None for 1."""
    return x + (branch if keep is None else branch * keep.astype(branch.dtype))


class Mlp(nn.Layer):
    """Two linear maps with an activation between them, (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.activation is quick_gelu:
            # its factors on the weights, which are few, spare two passes over the hidden values and two backward
            hidden = F.silu(self.fc1(x, weight_scale=QUICK_GELU_SLOPE, bias_scale=QUICK_GELU_SLOPE))
            return self.drop(self.fc2(self.drop(hidden), weight_scale=1.0 / QUICK_GELU_SLOPE))
        x = self.drop(self.activation(self.fc1(x)))
        return self.drop(self.fc2(x))


class AttentionProduct(nn.Layer):
    """The two products of attention, without parameters. Subclasses say whether heads come second or in a row.

    A layer of its own, so that the MAC counter sees the shapes. What is done with the map is the subclass's.
    """

    def __init__(self, scale: float, drop_rate: float) -> None:
        super().__init__()
        self.scale = scale
        self.drop = nn.Dropout(drop_rate)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Returns the map softmax(scale q k^T), (B, h, T, S); each row sums to 1."""
        return F.softmax((q * self.scale) @ k.transpose([0, 1, 3, 2]), axis=-1)  # (B, h, T, d) @ (B, h, d, S)

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Returns softmax(scale q k^T) v from one operator, which keeps no map and has its softmax in float32.

        Heads come third, as that operator has them: q (B, T, h, d), k and v (B, S, h, d) -> (B, T, h, d).
        """
        scale: float | None = self.scale
        factor = self.scale * math.sqrt(q.shape[3])
        if q.dtype != paddle.float32:  # then Paddle has a flash kernel, which scales by d ** -0.5 and nothing else
            q, scale = (q if math.isclose(factor, 1.0) else q * factor), None
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop.p, training=self.training, scale=scale)

    def fused_by_head(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same with the heads second: q (B, h, T, d), k and v (B, h, S, d) -> (B, h, T, d)."""
        return swap_heads(self.fused(swap_heads(q), swap_heads(k), swap_heads(v)))


class ScaledDotProduct(AttentionProduct):
    """softmax(scale q k^T) v: q (B, h, T, d), k and v (B, h, S, d) -> (B, h, T, d)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if can_fuse(q):
            return self.fused_by_head(q, k, v)
        return self.drop(self.scores(q, k)) @ v  # (B, h, T, S) @ (B, h, S, d) -> (B, h, T, d)


class MultiHeadProduct(AttentionProduct):
    """The same for all heads in a row: q (B, T, C), k and v (B, S, C) -> (B, T, C), with C = h d."""

    def __init__(self, num_heads: int, scale: float, drop_rate: float) -> None:
        super().__init__(scale, drop_rate)
        self.num_heads = num_heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = [0, 0, self.num_heads, q.shape[2] // self.num_heads]
        q, k, v = q.reshape(shape), k.reshape(shape), v.reshape(shape)  # (B, N, C) -> (B, N, h, d)
        if can_fuse(q):
            return self.fused(q, k, v).flatten(2)
        x = self.drop(self.scores(swap_heads(q), swap_heads(k))) @ swap_heads(v)  # (B, h, T, S) @ (B, h, S, d)
        return merge_heads(x)


def full_precision() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which automatic mixed precision is off; programs are float32 anyway."""
    return paddle.amp.auto_cast(enable=False) if paddle.in_dynamic_mode() else contextlib.nullcontext()


def can_fuse(x: Tensor) -> bool:
    """Whether attention on x goes through Paddle's fused operator: on a GPU, and not while a program is written.

    On a CPU that operator is the plain product, no faster; `.pdmodel` programs cannot hold it.
    """
    if not paddle.in_dynamic_mode():  # of its own: what writes programs evaluates both sides of an `and`
        return False
    return x.place.is_gpu_place()


def recompute_block(block: nn.Layer, x: Tensor, others: tuple[Any, ...] = ()) -> Tensor:
    """Returns block(x, *others), keeping x alone of its activations: the backward pass runs the block once more.

    Output, gradients and BatchNorm's running statistics are those of block(x, *others): the second run draws the same
    dropout, computes in the same precision, and leaves the statistics alone. Paddle's reentrant variant, its default,
    is not used: under DataParallel it fails, since each block would end a backward pass of its own.
    """
    if x.stop_gradient:  # frozen so far: nothing to keep, or the first trained block, which Paddle would warn about
        return block(x, *others)
    first = True

    def run(x: Tensor) -> Tensor:
        nonlocal first
        context = contextlib.nullcontext() if first else _keep_statistics(block)
        first = False
        with context:
            return block(x, *others)

    return recompute(run, x, use_reentrant=False)


@contextlib.contextmanager
def _keep_statistics(layer: nn.Layer) -> Iterator[None]:
    """Within it, every BatchNorm normalises as ever but does not move its running statistics."""
    norms = [x for x in layer.sublayers() if isinstance(x, nn.BatchNorm2D | nn.SyncBatchNorm)]
    momenta = [norm._momentum for norm in norms]
    for norm in norms:
        norm._momentum = 1.0  # running = momentum running + (1 - momentum) batch
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm._momentum = momentum


def normal_(parameter: Tensor, std: float = 0.02) -> None:
    """Fills a parameter with N(0, std).

    The reference calls `trunc_normal_` with bounds of -2 and 2, which are 100 standard deviations away: it cuts
    nothing. Paddle's TruncatedNormal with such bounds returns a bound itself about once in 10 million values.
    """
    nn.initializer.Normal(mean=0.0, std=std)(parameter)


def uniform_fan_in_(parameter: Tensor, fan_in: int) -> None:
    """Fills a parameter with U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for convolutions and biases.

    Paddle's own default, Normal(0, sqrt(2 / (k^2 C_in))), ignores groups and is up to 8 times off.
    """
    bound = fan_in**-0.5
    nn.initializer.Uniform(-bound, bound)(parameter)
