"""Clipping against PyTorch and timm."""

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import create_model
from tests.golden.make_training_step import CLIPS, SHAPES, flat, gradient, weight
from tests.models.golden import load
from util.train.clip import adaptive_units, gradient_norm, make_clip

LINEAR = ("fc.weight", "head.weight")  # Paddle keeps (in, out), PyTorch (out, in)


class Golden(nn.Layer):
    """The parameters of the golden problem, with their gradients, but for one."""

    def __init__(self, without: str = "") -> None:
        super().__init__()
        self.token = self.create_parameter([1, 1, 7])
        self.conv = nn.Conv2D(2, 6, 3)
        self.zero = nn.Embedding(4, 3)
        self.fc = nn.Linear(7, 5)
        self.head = nn.Linear(5, 3)
        for name, parameter in self.named_parameters():
            parameter.set_value(turned(name, weight(name)))
            if name != without:
                parameter.grad = paddle.to_tensor(turned(name, gradient(name)))


def turned(name: str, value: np.ndarray) -> np.ndarray:
    """Returns a parameter or gradient in the other library's layout."""
    return np.ascontiguousarray(value.T) if name in LINEAR else value


def gradients(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: turned(name, p.grad.numpy()) for name, p in model.named_parameters() if p.grad is not None}


def clip(model: nn.Layer, mode: Any, limit: float) -> None:
    with paddle.no_grad():
        make_clip(model, mode=mode, limit=limit)(gradient_norm(model.parameters()))


@pytest.mark.parametrize("case", CLIPS)
def test_clipping_equals_the_reference(case: str) -> None:
    model = Golden()
    clip(model, case.partition("_")[0], CLIPS[case])
    np.testing.assert_allclose(flat(gradients(model)), load("training_step")[f"clip_{case}"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("case", ["norm", "value", "agc", "agc_small"])
def test_those_cases_clip_some_gradients(case: str) -> None:
    before = flat({name: gradient(name) for name in SHAPES})
    moved = load("training_step")[f"clip_{case}"] != before
    assert moved.any()
    assert case == "norm" or not moved.all()


def test_that_comparison_sees_units_over_the_wrong_axis() -> None:
    model = Golden()
    model.fc.__class__ = nn.Layer  # no longer known as a Linear: its first axis is taken for the output
    clip(model, "agc", CLIPS["agc"])
    model.fc.__class__ = nn.Linear
    assert np.abs(flat(gradients(model)) - load("training_step")["clip_agc"]).max() > 1e-3


def test_adaptive_clipping_spares_the_head_and_what_is_frozen() -> None:
    model = create_model("cvt_nano_32x32", num_classes=3)
    model.stage0.patch_embed.proj.weight.stop_gradient = True
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(unit.parameter)]: unit.axes for unit in adaptive_units(model)}
    trained = {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert found.keys() == trained - {"head.weight", "head.bias"}
    assert found["stage2.blocks.0.mlp.fc1.weight"] == [0]
    assert found["stage1.patch_embed.proj.weight"] == [1, 2, 3]
    assert found["stage2.cls_token"] == [1, 2]
    assert found["stage2.blocks.0.norm1.weight"] is None


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_a_parameter_without_a_gradient_is_left_alone(mode: str) -> None:
    model = Golden(without="fc.weight")
    clip(model, mode, 0.01)
    assert model.fc.weight.grad is None
    assert np.abs(model.conv.weight.grad.numpy()).max() < np.abs(gradient("conv.weight")).max()


def test_gradient_norm_is_over_all_parameters() -> None:
    a, b, c = (paddle.create_parameter([n], "float32") for n in (2, 1, 3))
    a.grad, b.grad = paddle.to_tensor([3.0, 0.0]), paddle.to_tensor([4.0])
    assert float(gradient_norm([a, b, c])) == pytest.approx(5.0)


def test_the_norm_of_millions_of_values_is_right() -> None:
    values = np.random.default_rng(0).standard_normal(15_000_000, np.float32)
    parameter = paddle.create_parameter([values.size], "float32")
    parameter.grad = paddle.to_tensor(values)
    expected = np.linalg.norm(values.astype(np.float64))
    assert gradient_norm([parameter]).item() == pytest.approx(expected, rel=1e-6)
