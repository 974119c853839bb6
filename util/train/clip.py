"""Clipping of gradients, in place and without waiting for the device.

Norm and value are those of PyTorch's clip_grad_norm_ and clip_grad_value_; adaptive clipping is of High-Performance
Large-Scale Image Recognition Without Normalization (Brock et al. 2021, arXiv 2102.06171, section 4.1), as in timm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import paddle
from paddle import Tensor, _C_ops, nn

Clip = Callable[[Tensor], None]

_EPSILON = 1e-3  # the least norm that a unit's weights count with: it lets zeros be trained


@dataclass(frozen=True)
class Units:
    """A parameter, and the axes over which the norm of one of its units is taken; None: all of it is one unit."""

    parameter: Tensor
    axes: list[int] | None


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Returns the L2 norm of all gradients together, a scalar on the device.

    One copy and one sum instead of a few launches a parameter. The sum is the one of Paddle's own clipping: on a CPU,
    that of `paddle.dot` and `paddle.linalg.norm` adds up one by one, and is 2.5 % off for 15 million values.
    """
    flat = paddle.concat([p.grad.astype("float32").flatten() for p in parameters if p.grad is not None])
    return paddle.sqrt(_C_ops.squared_l2_norm(flat)).reshape([])


def clip_norm_(parameters: Sequence[Tensor], limit: float, norm: Tensor) -> None:
    """Scales all gradients alike, so that their `gradient_norm`, which is `norm`, is at most the limit."""
    factor = paddle.clip(limit / (norm + 1e-6), max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.multiply_(factor.astype(parameter.grad.dtype))


def clip_value_(parameters: Sequence[Tensor], limit: float) -> None:
    """Brings every element of the gradients into [-limit, limit]."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.clip_(-limit, limit)


def adaptive_units(model: nn.Layer) -> list[Units]:
    """Returns the trainable parameters outside the head, which the paper spares, with the axes of their units.

    A unit is what one output is computed from: all axes but the output one. That is the last of a Linear's weight
    (in, out), and the first of any other, such as a convolution's (out, in / groups, kh, kw). A parameter of at most
    one axis, a bias or a norm's scale, is one unit.
    """
    linear = {id(layer.weight) for layer in model.sublayers(include_self=True) if isinstance(layer, nn.Linear)}
    units = []
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient or name.startswith("head."):
            continue
        axes = None if parameter.ndim <= 1 else [0] if id(parameter) in linear else list(range(1, parameter.ndim))
        units.append(Units(parameter, axes))
    return units


def clip_adaptively_(units: Sequence[Units], factor: float) -> None:
    """Scales each unit's gradient so that its norm is at most `factor` times the norm of the unit's weights."""
    for unit in units:
        parameter, axes = unit.parameter, unit.axes
        if parameter.grad is None:
            continue
        limit = factor * paddle.clip(_norm(parameter, axes), min=_EPSILON)
        norm = _norm(parameter.grad, axes)
        parameter.grad.multiply_(paddle.clip(limit / paddle.clip(norm, min=1e-6), max=1.0))


def _norm(x: Tensor, axes: list[int] | None) -> Tensor:
    return paddle.sqrt(paddle.sum(x * x, axis=axes, keepdim=axes is not None))


def make_clip(model: nn.Layer, *, mode: Literal["norm", "value", "agc"], limit: float) -> Clip:
    """Returns what clips the gradients of a model's trainable parameters, given their `gradient_norm`.

    limit: of the global norm, of each value, or of a unit's norm in parts of its weights' norm (agc).
    """
    parameters = [p for p in model.parameters() if not p.stop_gradient]
    match mode:
        case "norm":
            return lambda norm: clip_norm_(parameters, limit, norm)
        case "value":
            return lambda norm: clip_value_(parameters, limit)
        case "agc":
            units = adaptive_units(model)
            return lambda norm: clip_adaptively_(units, limit)
