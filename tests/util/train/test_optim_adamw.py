"""The optimizer that Paddle has an operator for, but no class, is used where that operator is right."""

from typing import Any

import numpy as np
import paddle
import pytest
from paddle.optimizer import AdamW

from util.train import optim_adamw
from util.train.optim_adamw import FusedAdamW, adamw_class, fused_agrees

OPERATOR = optim_adamw._C_ops.fused_adam_


def test_it_is_used_where_it_agrees_with_paddles() -> None:
    assert fused_agrees("cpu")
    assert adamw_class() is FusedAdamW


def trained(kind: Any) -> dict[str, np.ndarray]:
    """Returns states and weights of a layer after three updates; in the second the weight has no gradient."""
    linear = paddle.nn.Linear(3, 2)
    linear.weight.set_value(paddle.ones([3, 2]))
    optimizer = kind(
        learning_rate=0.1, parameters=linear.parameters(), beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.1,
        apply_decay_param_fun=lambda name: True,
    )  # fmt: skip
    for step in range(3):
        (linear(paddle.ones([1, 3])).sum() if step != 1 else linear.bias.sum()).backward()
        assert (linear.weight.grad is None) == (step == 1)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    states = {name: value.numpy() for name, value in optimizer.state_dict().items() if name != "LR_Scheduler"}
    return states | {parameter.name: parameter.numpy() for parameter in linear.parameters()}


def test_states_and_weights_are_paddles_also_without_a_gradient() -> None:
    found = []
    for kind in (FusedAdamW, AdamW):
        with paddle.utils.unique_name.guard():
            found.append(trained(kind))
    ours, paddles = found
    assert ours.keys() == paddles.keys()
    assert len(paddles) == 2 * 5
    for name, value in paddles.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-6, err_msg=name)


def missing(*_: Any) -> None:
    raise RuntimeError("(NotFound) The kernel is not registered.")


def without_decay(*arguments: Any) -> None:
    OPERATOR(*arguments[:14], 0.0, *arguments[15:])


def deaf(*arguments: Any) -> None:
    """Reads another learning rate than the one it is given."""
    OPERATOR(*arguments[:2], arguments[2] * 0.5, *arguments[3:])


@pytest.mark.parametrize("operator", [missing, without_decay, deaf])
def test_paddles_own_is_used_where_the_operator_is_missing_or_wrong(
    operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim_adamw._C_ops, "fused_adam_", operator)
    fused_agrees.cache_clear()
    try:
        assert not fused_agrees("cpu")
        assert adamw_class() is AdamW
    finally:
        fused_agrees.cache_clear()


def test_the_check_leaves_random_numbers_and_names_alone() -> None:
    fused_agrees.cache_clear()
    paddle.seed(1)
    before = paddle.rand([3]).numpy()
    name = paddle.utils.unique_name.generate("x")
    paddle.seed(1)
    fused_agrees("cpu")
    assert (paddle.rand([3]).numpy() == before).all()
    assert paddle.utils.unique_name.generate("x") == f"x_{int(name.rpartition('_')[2]) + 1}"
