"""The optimizers, which parameters decay, how fast each layer learns, and their state by structured names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.optimizer import SGD, Adam, Lamb, Momentum, Optimizer
from paddle.regularizer import L2Decay

from util.errors import WeightsError
from util.options import OptimOptions
from util.train.lion import Lion
from util.train.optim_adamw import adamw_class


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


def layer_scales(model: nn.Layer, layer_decay: float) -> dict[str, float]:
    """Returns what each parameter's learning rate is multiplied by: layer_decay ** (layers above its own).

    The layers are those of `model.layer_order()`: 1 for the head, and one power more for each layer below, as in BEiT
    (Bao et al. 2021, arXiv 2106.08254) and timm. A parameter that is not in exactly one layer is a ValueError.
    """
    layers = model.layer_order()
    scales = {}
    for name, _ in model.named_parameters():
        places = [i for i, prefixes in enumerate(layers) if any(f"{name}.".startswith(f"{p}.") for p in prefixes)]
        if len(places) != 1:
            raise ValueError(f"{name} is in {len(places)} layers of {type(model).__name__}.layer_order(), expected 1")
        scales[name] = layer_decay ** (len(layers) - 1 - places[0])
    return scales


def create_optimizer(model: nn.Layer, options: OptimOptions) -> Optimizer:
    """Returns the optimizer of the trainable parameters; `set_lr` tells it the learning rate before each update.

    sgd, momentum and adam have L2 decay: weight_decay times the weights is added to the gradient. In adamw and lion it
    is decoupled, and in lamb it is added to Adam's update before that is scaled to the weights' norm. As in timm, lamb
    does not scale the update of a parameter without decay.

    LAMB: You et al. 2019, arXiv 1904.00962; equal to timm's without its clipping (max_grad_norm none).
    """
    parameters = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    decayed = set(decay_groups(model, filter_bias_and_bn=options.filter_bias_and_bn).decay)
    decay = options.layer_decay
    scales = dict.fromkeys(parameters, 1.0) if decay is None else layer_scales(model, decay)
    l2 = L2Decay(options.weight_decay) if options.opt in ("sgd", "momentum", "adam") else None
    for name, parameter in parameters.items():
        # What parameter groups would set too; but groups have L2 decay in LAMB, which looks for `lamb_weight_decay`.
        # Both are always set, since they outlive the optimizer.
        parameter.optimize_attr = {"learning_rate": scales[name]}
        parameter.regularizer = l2 if name in decayed else None
    optimizer = _optimizer(options, list(parameters.values()), {parameters[name].name for name in decayed})
    # Paddle makes the state at the first step; made here, it is always whole, and restored in place
    optimizer._create_accumulators(paddle.static.default_main_program().global_block(), list(parameters.values()))
    return optimizer


def _optimizer(options: OptimOptions, parameters: list[Tensor], decayed: set[str]) -> Optimizer:
    """decayed: names, Paddle's, of the parameters with weight decay; L2 decay is set on the parameters themselves."""
    beta1, beta2 = options.opt_betas or ((0.9, 0.99) if options.opt == "lion" else (0.9, 0.999))
    epsilon = options.opt_eps or (1e-6 if options.opt == "lamb" else 1e-8)
    match options.opt:
        case "sgd":
            return SGD(0.0, parameters=parameters)
        case "momentum":
            return Momentum(
                0.0,
                0.9 if options.momentum is None else options.momentum,
                parameters=parameters,
                use_nesterov=options.use_nesterov,
            )
        case "adam":
            return Adam(0.0, beta1, beta2, epsilon, parameters=parameters)
        case "adamw":
            return adamw_class()(
                learning_rate=0.0,
                parameters=parameters,
                beta1=beta1,
                beta2=beta2,
                epsilon=epsilon,
                weight_decay=options.weight_decay,
                apply_decay_param_fun=lambda name: name in decayed,
            )
        case "lamb":
            return Lamb(
                0.0,
                options.weight_decay,
                beta1,
                beta2,
                epsilon,
                parameters=parameters,
                exclude_from_weight_decay_fn=lambda parameter: parameter.name not in decayed,
            )
        case "lion":
            return Lion(
                learning_rate=0.0,
                parameters=parameters,
                beta1=beta1,
                beta2=beta2,
                weight_decay=options.weight_decay,
                apply_decay_param_fun=lambda name: name in decayed,
            )


def _state(optimizer: Optimizer, model: nn.Layer) -> dict[str, Tensor]:
    """Returns the optimizer's tensors themselves, as `<slot>/<parameter name>`.

    Paddle names them `linear_4.w_0_moment1_0`: after automatic parameter names, which change with whatever was built
    before, and with a number that counts the optimizers that the parameter has had.
    """
    structured = {parameter.name: name for name, parameter in model.named_parameters()}
    tensors = {}
    for key, value in optimizer.state_dict().items():
        automatic = max((name for name in structured if key.startswith(f"{name}_")), key=len)
        slot = re.sub(r"_\d+$", "", key.removeprefix(f"{automatic}_"))
        tensors[f"{slot}/{structured[automatic]}"] = value
    return tensors


def optimizer_tensors(optimizer: Optimizer, model: nn.Layer) -> dict[str, np.ndarray]:
    """Returns a copy of the state of an optimizer of `create_optimizer`, as `<slot>/<parameter name>`; sgd has none."""
    return {key: value.numpy() for key, value in _state(optimizer, model).items()}


def set_optimizer_tensors(optimizer: Optimizer, model: nn.Layer, tensors: Mapping[str, np.ndarray]) -> None:
    """Restores what `optimizer_tensors` returned; a WeightsError, and nothing is changed, unless all of it fits."""
    state = _state(optimizer, model)
    missing = [f"{key} is missing" for key in state if key not in tensors]
    unknown = [f"{key} is unknown" for key in tensors if key not in state]
    differing = [
        f"{key} is {value.dtype.name} {list(value.shape)}, expected {_dtype(state[key])} {list(state[key].shape)}"
        for key, value in tensors.items()
        if key in state and (list(value.shape) != list(state[key].shape) or value.dtype.name != _dtype(state[key]))
    ]
    problems = missing + unknown + differing
    if problems:
        raise WeightsError(
            f"the optimizer's state in the checkpoint is not that of {type(optimizer).__name__} on this model: "
            f"{problems[0]}{f', and {len(problems) - 1} more' if len(problems) > 1 else ''}; continue with the model "
            "and the optimizer of the run that wrote it, or start a new run from its weights with --pretrained"
        )
    for key, value in tensors.items():
        # on the place where it is: Adam's powers of beta stay on the host
        state[key].set_value(paddle.to_tensor(value, place=state[key].place))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("paddle.")
