"""The optimizer update: accumulation, clipping, average, decay."""

import contextlib
import copy

import numpy as np
import paddle
import pytest
from paddle import nn

from models import create_model
from tests.reference import images
from util.distributed import World
from util.options import OptimOptions
from util.train.checkpoint import Progress, TrainState
from util.train.ema import ModelEma
from util.train.loss import soft_cross_entropy
from util.train.optim import create_optimizer, decay_groups, optimizer_tensors, set_optimizer_tensors
from util.train.step import TrainStep, gradient_norm

MOMENTUM = OptimOptions(opt="momentum", momentum=0.0, weight_decay=0.0)


class Linear(nn.Layer):
    """A model whose gradients are known."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def no_weight_decay(self) -> set[str]:
        return set()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc(x)


def make_step(model: nn.Layer, options: OptimOptions, ema: ModelEma | None = None) -> TrainStep:
    scaler = paddle.amp.GradScaler(enable=False)
    state = TrainState(model, create_optimizer(model, options), ema=ema, scaler=scaler, progress=Progress())
    return TrainStep(state, options, World(rank=0, size=1))


def batch(size: int, seed: int = 0) -> tuple[paddle.Tensor, paddle.Tensor]:
    rng = np.random.default_rng(seed)
    targets = rng.dirichlet(np.ones(3), size).astype(np.float32)
    return paddle.to_tensor(rng.standard_normal((size, 4)).astype(np.float32)), paddle.to_tensor(targets)


def test_loss_equals_its_definition() -> None:
    x, targets = batch(5)
    logits = paddle.to_tensor(np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32))
    probabilities = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    expected = -(targets.numpy() * np.log(probabilities)).sum(1).mean()
    assert float(soft_cross_entropy(logits, targets)) == pytest.approx(expected, rel=1e-6)
    assert len(x) == 5


def test_accumulating_micro_batches_equals_one_large_batch() -> None:
    paddle.seed(0)
    whole, parts = Linear(), Linear()
    parts.set_state_dict(whole.state_dict())
    x, targets = batch(12)
    step = make_step(whole, MOMENTUM)
    step.accumulate(x, targets, group_size=1, last=True)
    step.update(0.1)
    step = make_step(parts, MOMENTUM)
    for i in range(3):  # a group of three, as the shorter last group of an epoch would be
        step.accumulate(x[4 * i : 4 * i + 4], targets[4 * i : 4 * i + 4], group_size=3, last=i == 2)
    step.update(0.1)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


@pytest.mark.parametrize(("mode", "limit"), [("norm", 0.05), ("norm", 1e3), ("value", 0.01), ("value", 1e3)], ids=str)
def test_clipping(mode: str, limit: float) -> None:
    paddle.seed(0)
    model = Linear()
    before = [p.numpy().copy() for p in model.parameters()]
    step = make_step(model, OptimOptions(opt="momentum", momentum=0, weight_decay=0, clip_grad=limit, clip_mode=mode))  # type: ignore[arg-type]
    step.accumulate(*batch(12), group_size=1, last=True)
    gradients = [p.grad.numpy().copy() for p in model.parameters()]
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    assert float(step.update(1.0)) == pytest.approx(norm, rel=1e-5), "the norm before clipping is returned"
    for b, g, p in zip(before, gradients, model.parameters(), strict=True):
        clipped = g * min(1.0, limit / norm) if mode == "norm" else g.clip(-limit, limit)
        np.testing.assert_allclose(b - p.numpy(), clipped, atol=1e-5)
        assert p.grad is None, "gradients are cleared"


def test_average_follows_its_closed_form() -> None:
    paddle.seed(0)
    model = Linear()
    ema = ModelEma(model, decay=0.9)
    expected = model.fc.weight.numpy().astype(np.float64)
    step = make_step(model, OptimOptions(opt="adamw", weight_decay=0.0), ema)
    for i in range(4):
        step.accumulate(*batch(6, seed=i), group_size=1, last=True)
        step.update(0.05)
        expected = 0.9 * expected + 0.1 * model.fc.weight.numpy()
    np.testing.assert_allclose(ema.model.fc.weight.numpy(), expected, atol=1e-6)
    assert all(p.stop_gradient for p in ema.model.parameters())


def test_average_takes_in_batch_norm_statistics() -> None:
    model = nn.BatchNorm1D(2)
    ema = ModelEma(model, decay=0.5)
    model(paddle.to_tensor([[10.0, 0.0], [10.0, 4.0]]))
    ema.update()
    np.testing.assert_allclose(ema.model._mean.numpy(), 0.5 * model._mean.numpy())


def test_decay_groups_spare_biases_norms_and_class_tokens() -> None:
    model = create_model("cvt_nano_32x32")
    groups = decay_groups(model, filter_bias_and_bn=True)
    parameters = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    assert sorted(groups.decay + groups.no_decay) == sorted(parameters)
    assert all(parameters[name].ndim > 1 for name in groups.decay)
    assert [name for name in groups.no_decay if parameters[name].ndim > 1] == ["stage2.cls_token"]
    assert decay_groups(model, filter_bias_and_bn=False).no_decay == []


@pytest.mark.parametrize("opt", ["adamw", "momentum"])
def test_weight_decay_reaches_its_group_only(opt: str) -> None:
    paddle.seed(0)
    model = Linear()
    weight, bias = (p.numpy().copy() for p in model.parameters())
    optimizer = create_optimizer(model, OptimOptions(opt=opt, weight_decay=0.5, momentum=0.0))  # type: ignore[arg-type]
    for p in model.parameters():
        p.grad = paddle.zeros_like(p)
    optimizer.set_lr(0.1)
    optimizer.step()
    np.testing.assert_allclose(model.fc.weight.numpy(), weight * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_array_equal(model.fc.bias.numpy(), bias)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_equals_its_definition(nesterov: bool) -> None:
    model = Linear()
    w = model.fc.weight.numpy().astype(np.float64)
    optimizer = create_optimizer(
        model, OptimOptions(opt="momentum", momentum=0.9, use_nesterov=nesterov, weight_decay=0.0)
    )
    velocity = np.zeros_like(w)
    for i in range(3):
        gradient = np.full_like(w, i + 1.0)
        model.fc.weight.grad = paddle.to_tensor(gradient.astype(np.float32))
        model.fc.bias.grad = paddle.zeros_like(model.fc.bias)
        optimizer.set_lr(0.01)
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        w -= 0.01 * (gradient + 0.9 * velocity if nesterov else velocity)
    np.testing.assert_allclose(model.fc.weight.numpy(), w, atol=1e-6)


@pytest.mark.parametrize("opt", ["adamw", "momentum"])
def test_optimizer_state_moves_between_models_by_structured_names(opt: str) -> None:
    options = OptimOptions(opt=opt, model_ema=False)  # type: ignore[arg-type]
    paddle.seed(0)
    first = create_model("cvt_nano_32x32", num_classes=3)
    steps = make_step(first, options)
    create_model("cvt_nano_32x32", num_classes=3)  # shifts Paddle's automatic names
    second = create_model("cvt_nano_32x32", num_classes=3)

    def train(step: TrainStep, seed: int) -> None:
        targets = paddle.to_tensor(np.full((2, 3), 1 / 3, np.float32))
        step.accumulate(paddle.to_tensor(images(2, 32, 32, seed=seed)), targets, group_size=1, last=True)
        step.update(1e-2)

    train(steps, 0)
    second.set_state_dict(first.state_dict())
    resumed = make_step(second, options)
    set_optimizer_tensors(resumed.optimizer, second, optimizer_tensors(steps.optimizer, first))
    train(steps, 1)
    train(resumed, 1)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_that_comparison_fails_without_the_optimizer_state() -> None:
    paddle.seed(0)
    options = OptimOptions()
    model, x, targets = Linear(), *batch(4)
    copied = copy.deepcopy(model)
    for step_of, restore in ((make_step(model, options), False), (make_step(copied, options), True)):
        for i in range(2):
            if restore and i == 1:  # a new optimizer, as a resume that forgets its state would have
                step_of = make_step(copied, options)
            step_of.accumulate(x * (i + 1), targets, group_size=1, last=True)
            step_of.update(0.1)
    assert np.abs(model.fc.weight.numpy() - copied.fc.weight.numpy()).max() > 1e-3


@pytest.mark.parametrize(("amp", "dtype"), [(False, "float16"), (True, "float16"), (True, "bfloat16")])
def test_amp_is_what_paddle_is_told(amp: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paddle has no half-precision kernels on CPU; this sees what a GPU would be asked for."""
    told: list[dict[str, object]] = []

    def auto_cast(**arguments: object) -> contextlib.nullcontext[None]:
        told.append(arguments)
        return contextlib.nullcontext()

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    step = make_step(Linear(), OptimOptions(amp=amp, amp_dtype=dtype))  # type: ignore[arg-type]
    step.accumulate(*batch(2), group_size=1, last=True)
    assert told == [{"enable": amp, "dtype": dtype}]


def test_gradient_norm_is_over_all_parameters() -> None:
    a, b = paddle.create_parameter([2], "float32"), paddle.create_parameter([1], "float32")
    a.grad, b.grad = paddle.to_tensor([3.0, 0.0]), paddle.to_tensor([4.0])
    assert float(gradient_norm([a, b])) == pytest.approx(5.0)
