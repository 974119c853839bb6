"""The optimizer, its decay groups, and its state by structured parameter names."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.optimizer import AdamW, Momentum, Optimizer

from util.errors import WeightsError
from util.options import OptimOptions


@dataclass(frozen=True)
class DecayGroups:
    """Names of the parameters with and without weight decay."""

    decay: list[str]
    no_decay: list[str]


def decay_groups(model: nn.Layer, *, filter_bias_and_bn: bool) -> DecayGroups:
    """Splits the trainable parameters as the reference does.

    filter_bias_and_bn: no decay on parameters of at most one dimension (biases, norms) and on what the model's
    `no_weight_decay()` names (class tokens); otherwise everything decays.
    """
    spared = model.no_weight_decay() if filter_bias_and_bn else set()
    groups = DecayGroups([], [])
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        keep = filter_bias_and_bn and (parameter.ndim <= 1 or name in spared)
        (groups.no_decay if keep else groups.decay).append(name)
    return groups


def create_optimizer(model: nn.Layer, options: OptimOptions) -> Optimizer:
    """Returns the optimizer; its learning rate is set before each update. AdamW's decay is decoupled, Momentum's L2."""
    groups = decay_groups(model, filter_bias_and_bn=options.filter_bias_and_bn)
    parameters = dict(model.named_parameters())
    decay = [parameters[name] for name in groups.decay]
    no_decay = [parameters[name] for name in groups.no_decay]
    if options.opt == "adamw":
        decayed = {p.name for p in decay}
        return AdamW(
            learning_rate=0.0,
            beta1=options.opt_betas[0],
            beta2=options.opt_betas[1],
            epsilon=options.opt_eps,
            parameters=decay + no_decay,
            weight_decay=options.weight_decay,
            apply_decay_param_fun=lambda name: name in decayed,
        )
    return Momentum(
        learning_rate=0.0,
        momentum=options.momentum,
        use_nesterov=options.use_nesterov,
        parameters=[
            {"params": part, "weight_decay": float(weight_decay)}  # Paddle takes an int for a regularizer
            for part, weight_decay in ((decay, options.weight_decay), (no_decay, 0.0))
            if part
        ],
    )


def optimizer_tensors(optimizer: Optimizer, model: nn.Layer) -> dict[str, np.ndarray]:
    """Returns the optimizer's accumulators as `<slot>/<parameter name>`.

    Paddle names them after automatic parameter names (`linear_4.w_0_moment1_0`), which change with whatever was built
    before; the structured names do not.
    """
    structured = {parameter.name: name for name, parameter in model.named_parameters()}
    tensors = {}
    for key, value in optimizer.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        automatic = max((name for name in structured if key.startswith(f"{name}_")), key=len)
        tensors[f"{key.removeprefix(automatic + '_')}/{structured[automatic]}"] = value.numpy()
    return tensors


def set_optimizer_tensors(optimizer: Optimizer, model: nn.Layer, tensors: Mapping[str, np.ndarray]) -> None:
    """Restores what `optimizer_tensors` returned; a WeightsError unless every slot has a value for every parameter."""
    parameters = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    names: dict[str, set[str]] = {}
    state = {}
    for key, value in tensors.items():
        slot, _, name = key.partition("/")
        names.setdefault(slot, set()).add(name)
        fits = name in parameters and (value.size == 1 or value.shape == tuple(parameters[name].shape))
        if not fits:
            raise WeightsError(f"the optimizer's state has {key} {list(value.shape)}, which the model does not")
        state[f"{parameters[name].name}_{slot}"] = paddle.to_tensor(value)
    incomplete = [slot for slot, found in names.items() if found != parameters.keys()]
    if incomplete or not names:
        raise WeightsError(f"the optimizer's state is incomplete: {', '.join(incomplete) or 'there is none'}")
    optimizer.set_state_dict(state)
