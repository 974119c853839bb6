"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) that updates all parameters with a few launches of a GPU."""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, _C_ops, nn
from paddle.optimizer import AdamW

_CHUNK_SIZE = 2048 * 32  # values that a block of threads updates


class FusedAdamW(AdamW):
    """Paddle's AdamW on float32 parameters, with its state and its result but for rounding.

    Paddle's launches a kernel a parameter; this one, lists of those that share learning rate and weight decay. Paddle
    has that operator, `fused_adam_`, but no optimizer that calls it. On a GPU it takes the powers of beta of a list's
    first parameter: every parameter must get a gradient in every update, or in none.

    learning rates: a parameter's `optimize_attr["learning_rate"]` times that of `set_lr`.
    apply_decay_param_fun: whether the parameter of that name (Paddle's, `Tensor.name`) decays.
    """

    def __init__(
        self,
        *,
        learning_rate: float,
        parameters: Sequence[Tensor],
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
        apply_decay_param_fun: Callable[[str], bool],
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon, parameters=parameters, weight_decay=weight_decay)
        self._coefficient = weight_decay
        self._decays = apply_decay_param_fun
        self._gathered: dict[tuple[float, float], list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def _append_optimize_op(self, block: Any, param_and_grad: tuple[Tensor, Tensor]) -> None:
        """Notes a parameter; the optimizer asks for each one that has a gradient, and for none after an overflow."""
        parameter = param_and_grad[0]
        decay = self._coefficient if self._decays(parameter.name) else 0.0
        self._gathered[parameter.optimize_attr["learning_rate"], decay].append(param_and_grad)

    def _finish_update(self, block: Any, parameters_and_grads: Any) -> None:
        """Updates what was noted."""
        for (lr_scale, decay), pairs in self._gathered.items():
            lr = self._global_learning_rate()
            self._update(pairs, lr if lr_scale == 1.0 else lr * lr_scale, decay)
        self._gathered.clear()

    def _update(self, pairs: Sequence[tuple[Tensor, Tensor]], lr: Tensor, decay: float) -> None:
        parameters = [parameter for parameter, _ in pairs]

        def state(name: str) -> list[Any]:
            return [self._get_accumulator_master(name, parameter) for parameter in parameters]

        _C_ops.fused_adam_(
            parameters, [grad for _, grad in pairs], lr,
            state(self._moment1_acc_str), state(self._moment2_acc_str), None,  # no maximum of moment2
            state(self._beta1_pow_acc_str), state(self._beta2_pow_acc_str),
            None, None,  # no float32 copies, nothing to skip
            self._beta1, self._beta2, self._epsilon, _CHUNK_SIZE, decay,
            True, False, False, False,  # AdamW; not: half parameters, one power of beta for all, AMSGrad
        )  # fmt: skip


def adamw_class() -> type[AdamW]:
    """Returns `FusedAdamW` where it computes rightly, else Paddle's own; both take the arguments of the former."""
    return FusedAdamW if fused_agrees(paddle.get_device()) else AdamW


@functools.cache
def fused_agrees(device: str) -> bool:
    """Returns whether three updates by `fused_adam_` on the current device, `device`, are those of Paddle's AdamW.

    Paddle's optimizers do not call that operator, so nobody else would notice one that is missing or wrong there.
    """
    with paddle.utils.unique_name.guard():  # the names that the model's parameters get shall not depend on this
        parameters = {
            kind: [
                paddle.create_parameter(
                    [size], "float32", default_initializer=nn.initializer.Assign(np.linspace(-1, 1, size))
                )
                for size in (3, 5, 70_000)  # the last is of more than one chunk
            ]
            for kind in (FusedAdamW, AdamW)
        }

    def updated(kind: type[AdamW]) -> list[np.ndarray]:
        own = parameters[kind]
        own[1].optimize_attr["learning_rate"] = 0.5
        optimizer = kind(
            learning_rate=0.1, parameters=own, beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.1,
            apply_decay_param_fun=lambda name: name != own[0].name,
        )  # fmt: skip
        for step in range(1, 4):
            for parameter in own:
                (parameter * parameter * step).sum().backward()
            optimizer.step()
            optimizer.clear_grad()
        return [parameter.numpy() for parameter in own]

    try:
        found = updated(FusedAdamW)
    except (RuntimeError, ValueError, TypeError):  # no such kernel, or one with other arguments
        return False
    return all(np.allclose(ours, own, rtol=1e-5) for ours, own in zip(found, updated(AdamW), strict=True))
