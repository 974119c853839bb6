"""Operators rewritten for CPUs against Paddle's own, values and gradients."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn

from models import cpu, create_model
from models.layers import Conv2D, DepthwiseConv2D, LayerNorm, Linear
from tests.scripts.run import ROOT
from util.errors import is_lost_worker


@pytest.fixture(autouse=True)
def rewritten() -> Iterator[None]:
    cpu.rewrite_gradients()
    yield
    cpu.rewrite_gradients(False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32) + 0.5)


def results(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[np.ndarray]:
    """Returns the value and the gradients of a weighted sum of it."""
    for tensor in inputs:
        tensor.stop_gradient = False
    out = function(*inputs)
    weights = normal(*out.shape, seed=9)
    return [t.numpy() for t in (out, *paddle.grad((out * weights).sum(), inputs))]


def assert_equal(ours: Callable[..., Tensor], paddles: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    for found, expected in zip(results(ours, inputs), results(paddles, inputs), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6), (1, 1, 6)])
def test_linear_is_paddles(shape: tuple[int, ...]) -> None:
    assert_equal(cpu.Linear.apply, F.linear, [normal(*shape), normal(6, 4, seed=1), normal(4, seed=2)])


def test_a_bias_of_channels_is_paddles() -> None:
    assert_equal(
        cpu.ChannelBias.apply, lambda x, bias: x + bias.reshape([1, 3, 1, 1]), [normal(2, 3, 5, 4), normal(3, seed=1)]
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_with_it_is_paddles(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Conv2D(3, 4, 3, stride=stride, padding=1)
    layer.bias.set_value(normal(4))
    inputs = [normal(2, 3, 7, 6), layer.weight, layer.bias]
    ours = results(lambda x, *_: layer(x), inputs)
    monkeypatch.setattr(cpu, "applies", lambda x: False)
    for found, expected in zip(ours, results(lambda x, *_: layer(x), inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(7, 16), (2, 5, 16)])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_layer_norm_is_paddles(shape: tuple[int, ...], epsilon: float) -> None:
    assert_equal(
        lambda x, weight, bias: cpu.LayerNorm.apply(x, weight, bias, epsilon),
        lambda x, weight, bias: F.layer_norm(x, 16, weight, bias, epsilon),
        [0.1 * normal(*shape), normal(16, seed=1), normal(16, seed=2)],  # small, so that epsilon counts
    )


@pytest.mark.parametrize("is_rewritten", [True, False])
@pytest.mark.parametrize("is_fused", [True, False])
def test_a_frozen_norm_gives_its_input_the_gradient_of_a_trained_one(
    is_rewritten: bool, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paddle's own does not, which the other half of the test shows: where it is mended, so can this be."""
    cpu.rewrite_gradients(is_rewritten)
    if is_fused:
        monkeypatch.setattr(cpu, "misses_frozen_weight", lambda x, weight: False)
    layer = LayerNorm(6)
    found: list[np.ndarray] = []
    layer.weight.set_value(normal(6))
    for is_frozen in (False, True):
        layer.weight.stop_gradient = is_frozen
        x = normal(5, 6, seed=1)
        x.stop_gradient = False
        (layer(x) * normal(5, 6, seed=2)).sum().backward()
        found.append(x.grad.numpy())
    is_equal = np.allclose(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert is_equal == (is_rewritten or not is_fused)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (8, 5), (14, 14)])
def test_depthwise_convolution_is_paddles(stride: int, size: tuple[int, int]) -> None:
    assert_equal(
        lambda x, weight: cpu.DepthwiseConv.apply(x, weight, stride),
        lambda x, weight: F.conv2d(x, weight, padding=1, stride=stride, groups=3),
        [normal(2, 3, *size), normal(3, 1, 3, 3, seed=1)],
    )


def test_that_comparison_sees_another_epsilon_and_another_stride() -> None:
    x, weight, bias = normal(7, 16), normal(16, seed=1), normal(16, seed=2)
    with pytest.raises(AssertionError):
        assert_equal(
            lambda x, weight, bias: cpu.LayerNorm.apply(x, weight, bias, 1e-5),
            lambda x, weight, bias: F.layer_norm(x, 16, weight, bias, 1e-3),
            [x, weight, bias],
        )
    with pytest.raises(AssertionError):
        assert_equal(
            lambda x, weight: cpu.DepthwiseConv.apply(x, weight, 1),
            lambda x, weight: F.conv2d(x, weight, padding=1, stride=2, groups=3),
            [normal(2, 3, 8, 8), normal(3, 1, 3, 3, seed=1)],
        )


def test_what_is_frozen_gets_no_gradient() -> None:
    x, weight, bias = normal(5, 6), normal(6, 4, seed=1), normal(4, seed=2)
    bias.stop_gradient = False
    cpu.Linear.apply(x, weight, bias).sum().backward()
    assert x.grad is None
    assert weight.grad is None
    np.testing.assert_allclose(bias.grad.numpy(), 5.0)


def test_layers_use_them_where_they_apply_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layers: list[tuple[nn.Layer, Tensor]] = [
        (Linear(6, 4), normal(5, 6)),
        (LayerNorm(6), normal(5, 6)),
        (Conv2D(3, 2, 3), normal(1, 3, 4, 4)),
        (DepthwiseConv2D(3, 2), normal(1, 3, 4, 4)),
    ]
    assert all("PyLayer" in layer(x).grad_fn.name() for layer, x in layers)
    monkeypatch.setattr(cpu, "applies", lambda x: False)
    assert not any("PyLayer" in layer(x).grad_fn.name() for layer, x in layers)


def test_they_apply_to_float32_on_a_cpu_outside_of_programs() -> None:
    assert cpu.applies(normal(2))
    assert not cpu.applies(normal(2).astype("float64"))
    paddle.enable_static()
    try:
        assert not cpu.applies(paddle.static.data("x", [2], "float32"))
    finally:
        paddle.disable_static()


DOUBLE = """
from util import runtime
runtime.start(1)
import paddle
from models import cpu, create_model
if {wanted}:
    cpu.rewrite_gradients()
model = create_model("cvt_nano_32x32")
model.train()
loss = model(paddle.ones([2, 3, 32, 32])).square().sum()
loss.backward(retain_graph=True)
once = model.head.weight.grad.numpy().copy()
loss.backward()
assert abs(model.head.weight.grad.numpy() - 2 * once).max() < 1e-4
"""


@pytest.mark.parametrize("wanted", [False, True])
def test_models_are_differentiated_in_every_way_unless_a_script_asks_for_speed(wanted: bool) -> None:
    """The control: Paddle's PyLayer ends the process in a second backward."""
    done = subprocess.run([sys.executable, "-c", DOUBLE.format(wanted=wanted)], cwd=ROOT, capture_output=True)
    assert (done.returncode == 0) != wanted, done.stderr.decode()[-2000:]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["cvt_nano_32x32", "vit_ti_16_224", "convit_tiny"])
def test_a_map_of_saliency_needs_the_gradient_of_the_image_alone(name: str, training: bool) -> None:
    cpu.rewrite_gradients(False)
    model = create_model(name) if name == "cvt_nano_32x32" else create_model(name, img_size=32)
    model.train() if training else model.eval()
    image = normal(2, 3, 32, 32)
    image.stop_gradient = False
    (gradient,) = paddle.grad(model(image)[:, 0].sum(), [image])
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("case", ["plain", "recomputed", "head alone"])
def test_gradients_of_a_model_are_paddles(case: str) -> None:
    paddle.seed(0)
    model = create_model("cvt_nano_32x32", num_classes=4)
    model.train()
    if case == "recomputed":
        model.set_grad_checkpointing(True)
    if case == "head alone":
        for name, parameter in model.named_parameters():
            parameter.stop_gradient = not name.startswith("head")
    image = normal(4, 3, 32, 32)
    found = []
    for wanted in (True, False):
        cpu.rewrite_gradients(wanted)
        (model(image) * normal(4, 4, seed=3)).sum().backward()
        trained = {n: p.grad.numpy() for n, p in model.named_parameters() if not p.stop_gradient}
        found.append(trained)
        model.clear_gradients(set_to_zero=False)
    assert set(found[0]) == set(found[1])
    assert (len(found[0]) == 2) == (case == "head alone")
    largest = max(np.abs(gradient).max() for gradient in found[1].values())
    for name, expected in found[1].items():
        np.testing.assert_allclose(found[0][name], expected, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_with_views_gradients_are_paddles_and_results_alone_are_rewritten() -> None:
    """Their recomputed gradients would be wrong; a view is read as it should be."""
    layer, image = DepthwiseConv2D(3, 1), normal(2, 3, 4, 5)
    expected = layer(image.transpose([0, 1, 3, 2])).numpy()
    paddle.set_flags({cpu.VIEWS: True})
    try:
        cpu.rewrite_gradients()
        view = image.transpose([0, 1, 3, 2])
        assert not view.is_contiguous()
        assert not cpu.applies(view)
        with paddle.no_grad():
            assert cpu.applies(view)
            np.testing.assert_allclose(layer(view).numpy(), expected, atol=1e-6)
    finally:
        paddle.set_flags({cpu.VIEWS: False})
    cpu.rewrite_gradients()
    assert cpu.applies(view)


def test_long_rows_are_convolved_by_paddle() -> None:
    layer = DepthwiseConv2D(2, 1)
    assert "PyLayer" in layer(normal(1, 2, 3, 96)).grad_fn.name()
    assert "PyLayer" not in layer(normal(1, 2, 3, 97)).grad_fn.name()


@pytest.mark.parametrize(
    ("words", "expected"),
    [("(Fatal) DataLoader process (pid 1) exited is killed by signal: Killed.", True), ("something else", False)],
)
def test_a_worker_that_dies_during_a_backward_pass_is_told_from_other_errors(words: str, expected: bool) -> None:
    """Paddle raises it from a signal handler, here within an operator that is written in Python."""

    class Dying(paddle.autograd.PyLayer):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2.0

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise SystemError(words)

    x = paddle.ones([2])
    x.stop_gradient = False
    with pytest.raises(OSError, match="Error message in backward") as caught:
        Dying.apply(x).sum().backward()
    assert is_lost_worker(caught.value) == expected
    assert not is_lost_worker(ValueError("DataLoader process"))
