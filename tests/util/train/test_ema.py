"""The average against timm's decay and its closed form."""

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import create_model
from tests.golden.make_training_step import EMA_DECAY, UPDATES
from tests.models.golden import load
from util.options import EmaOptions
from util.train.ema import ModelEma

STEPS = 12


def options(**settings: Any) -> EmaOptions:
    return EmaOptions(model_ema=True, **settings)


class Walk(nn.Layer):
    """A weight that each step sets to another value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.create_parameter([3])
        self.set(-1)

    def set(self, step: int) -> None:
        self.weight.set_value(walk(step))


def walk(step: int) -> np.ndarray:
    return np.random.default_rng([5, step + 1]).standard_normal(3).astype(np.float32)


def closed_form(start: int, decays: list[float]) -> np.ndarray:
    """Returns sum_i (1 - d_i) prod_{j > i} d_j w_i + prod_j d_j w_start in float64."""
    remaining = np.cumprod([1.0, *decays[::-1]])[::-1]  # what is left of the average after the steps from i on
    total = remaining[0] * walk(start - 1).astype(np.float64)
    for i, decay in enumerate(decays):
        total += (1.0 - decay) * remaining[i + 1] * walk(start + i)
    return total


@pytest.mark.parametrize(
    ("settings", "decay"),
    [
        ({}, lambda n: 0.9998),
        ({"model_ema_decay": 0.6}, lambda n: 0.6),
        ({"model_ema_decay": 0.6, "model_ema_warmup": True}, lambda n: min(0.6, 1 - (1 + n) ** (-2 / 3))),
    ],
    ids=["default", "decay", "warm-up"],
)
def test_the_average_is_its_closed_form(settings: dict[str, Any], decay: Any) -> None:
    model = Walk()
    ema = ModelEma(model, options(**settings))
    for step in range(STEPS):
        model.set(step)
        ema.update(step)
    expected = closed_form(0, [decay(n) for n in range(STEPS)])
    np.testing.assert_allclose(ema.model.weight.numpy(), expected, rtol=0, atol=1e-6)
    constant = closed_form(0, [0.6] * STEPS)
    assert (np.abs(expected - constant).max() > 1e-3) == (settings != {"model_ema_decay": 0.6})


def test_the_decay_of_the_warm_up_is_the_references() -> None:
    ema = ModelEma(Walk(), options(model_ema_decay=EMA_DECAY, model_ema_warmup=True))
    np.testing.assert_allclose([ema.decay(n) for n in UPDATES], load("training_step")["ema_decay"], rtol=0, atol=1e-12)


def test_the_first_update_of_a_warm_up_copies_the_model() -> None:
    model = Walk()
    ema = ModelEma(model, options(model_ema_warmup=True))
    model.set(0)
    ema.update(0)
    np.testing.assert_allclose(ema.model.weight.numpy(), walk(0), rtol=1e-6)


@pytest.mark.parametrize("number", [5, 0])
def test_a_resumed_average_is_the_uninterrupted_one_if_it_is_told_the_update(number: int) -> None:
    settings = options(model_ema_decay=0.9, model_ema_warmup=True)
    model = Walk()
    whole = ModelEma(model, settings)
    for step in range(STEPS):
        if step == 5:
            resumed = ModelEma(model, settings)
            resumed.model.set_state_dict(whole.model.state_dict())
        model.set(step)
        whole.update(step)
        if step >= 5:
            resumed.update(step - 5 + number)
    equal = np.array_equal(whole.model.weight.numpy(), resumed.model.weight.numpy())
    assert equal == (number == 5)


def test_it_takes_in_batch_norm_statistics() -> None:
    model = nn.BatchNorm1D(2)
    ema = ModelEma(model, options(model_ema_decay=0.5))
    model(paddle.to_tensor([[10.0, 0.0], [10.0, 4.0]]))
    ema.update(0)
    np.testing.assert_allclose(ema.model._mean.numpy(), 0.5 * model._mean.numpy())


def test_it_is_a_model_of_its_own_in_evaluation_mode_without_gradients() -> None:
    model = create_model("cvt_nano_32x32", num_classes=3)
    ema = ModelEma(model, options())
    assert model.training
    assert not any(layer.training for layer in ema.model.sublayers(include_self=True))
    assert all(p.stop_gradient for p in ema.model.parameters())
    assert not all(p.stop_gradient for p in model.parameters())
    before = {name: p.numpy() for name, p in ema.model.state_dict().items()}
    for p in model.parameters():
        p.set_value(paddle.zeros_like(p))
    for name, p in ema.model.state_dict().items():
        np.testing.assert_array_equal(p.numpy(), before[name])


def test_the_defaults_are_the_references() -> None:
    assert vars(EmaOptions()) == {"model_ema": False, "model_ema_decay": 0.9998, "model_ema_warmup": False}
