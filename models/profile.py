"""Counting what a model costs: parameters and multiply-accumulates of one image."""

from collections.abc import Callable
from typing import Any

import paddle
from paddle import Tensor, nn

from models.layers import AttentionProduct


def count_parameters(model: nn.Layer) -> int:
    """Returns the number of values, frozen ones too. BatchNorm's statistics, parameters in Paddle, are left out."""
    return sum(p.size for name, p in model.named_parameters() if not name.endswith(("._mean", "._variance")))


def _conv_macs(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    out_channels, in_channels_a_group, *kernel = layer.weight.shape
    positions = output.size // (output.shape[0] * out_channels)
    macs = positions * out_channels * in_channels_a_group
    for side in kernel:
        macs *= side
    return macs


def _linear_macs(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    return output.size * layer.weight.shape[0]


def _attention_macs(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    q, k, *_ = inputs  # (1, h, T, d), (1, h, S, d), or (1, T, C), (1, S, C)
    return 2 * q.size * k.shape[-2]  # T S d for the scores and as much for the weighted sum, each head


_COUNTERS: dict[type[nn.Layer], Callable[[Any, tuple[Tensor, ...], Tensor], int]] = {
    nn.Conv2D: _conv_macs,
    nn.Linear: _linear_macs,
    AttentionProduct: _attention_macs,
}


def count_macs(model: nn.Layer, input_size: tuple[int, int, int]) -> int:
    """Returns the multiply-accumulates of one forward pass of one image (C, H, W), attention products included.

    This is what the papers print as "GFLOPs". Norms, activations and additions are not counted. Runs the model once.
    """
    total = 0

    def hook(layer: nn.Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += next(count for kind, count in _COUNTERS.items() if isinstance(layer, kind))(layer, inputs, output)

    counted: list[Any] = [layer for layer in model.sublayers() if isinstance(layer, tuple(_COUNTERS))]
    handles = [layer.register_forward_post_hook(hook) for layer in counted]
    training = model.training
    model.eval()
    with paddle.no_grad():
        model(paddle.zeros([1, *input_size]))
    if training:
        model.train()
    for handle in handles:
        handle.remove()
    return total
