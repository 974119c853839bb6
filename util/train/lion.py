"""Lion, the optimizer of Symbolic Discovery of Optimization Algorithms (Chen et al. 2023, arXiv 2302.06675).

Written from the paper's algorithm 2; Paddle has none.
"""

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor
from paddle.optimizer import Optimizer


class Lion(Optimizer):
    """Momentum whose sign is the update, on float32 parameters p with gradients g; the decay is decoupled.

    p <- p - lr * (sign(beta1 m + (1 - beta1) g) + weight_decay p), then m <- beta2 m + (1 - beta2) g.

    apply_decay_param_fun: whether the parameter of that name (Paddle's, `Tensor.name`) decays.
    """

    def __init__(
        self,
        *,
        learning_rate: float,
        parameters: Sequence[Tensor],
        beta1: float,
        beta2: float,
        weight_decay: float,
        apply_decay_param_fun: Callable[[str], bool],
    ) -> None:
        super().__init__(learning_rate=learning_rate, parameters=parameters)
        self._beta1 = paddle.full([], beta1)  # made once: as a float, each lerp would copy it to the device
        self._one_minus_beta2 = paddle.full([], 1.0 - beta2)
        self._weight_decay = weight_decay
        self._apply_decay_param_fun = apply_decay_param_fun

    def _create_accumulators(self, block: Any, parameters: Sequence[Tensor]) -> None:
        for parameter in parameters:
            if parameter.name not in self._already_create_accumulator:
                self._add_accumulator("momentum", parameter)
                self._already_create_accumulator.add(parameter.name)

    def _append_optimize_op(self, block: Any, param_and_grad: tuple[Tensor, Tensor]) -> None:
        parameter, grad = param_and_grad
        momentum = self._get_accumulator("momentum", parameter)
        lr = self.get_lr() * parameter.optimize_attr["learning_rate"]  # numbers of the host: nothing waits
        if self._apply_decay_param_fun(parameter.name):
            parameter.scale_(1.0 - lr * self._weight_decay)
        update = paddle.sign(paddle.lerp(grad, momentum, self._beta1))
        parameter.subtract_(update.scale_(lr))
        momentum.lerp_(grad, self._one_minus_beta2)
