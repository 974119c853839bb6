"""One update: accumulation, clipping, the average, overflow, and that nothing waits for the device."""

import contextlib
import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import paddle.profiler
import pytest
from paddle import Tensor, nn

from models import create_model
from tests.reference import images
from util.distributed import World
from util.options import EmaOptions, LossOptions, OptimOptions, PrecisionOptions
from util.train.checkpoint import TrainState
from util.train.ema import ModelEma
from util.train.freeze import freeze
from util.train.loss import make_loss
from util.train.optim import create_optimizer
from util.train.precision import make_scaler
from util.train.progress import Progress
from util.train.step import TrainStep

SGD = OptimOptions(opt="sgd", weight_decay=0.0)
NO_AMP, CROSS_ENTROPY = PrecisionOptions(), LossOptions()
CLASSES = 3


class Linear(nn.Layer):
    """A model whose gradients are known."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, CLASSES)

    def no_weight_decay(self) -> set[str]:
        return set()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def linear() -> Linear:
    paddle.seed(0)
    return Linear()


def cvt() -> nn.Layer:
    paddle.seed(0)
    return create_model("cvt_nano_32x32", num_classes=CLASSES)


def make_step(
    model: nn.Layer,
    optim: OptimOptions = SGD,
    *,
    precision: PrecisionOptions = NO_AMP,
    loss: LossOptions = CROSS_ENTROPY,
    ema: ModelEma | None = None,
) -> TrainStep:
    state = TrainState(
        model, create_optimizer(model, optim), ema=ema, scaler=make_scaler(precision), progress=Progress()
    )
    return TrainStep(state, optim=optim, precision=precision, loss=make_loss(loss), world=World(rank=0, size=1))


def targets(size: int) -> Tensor:
    return paddle.to_tensor(np.random.default_rng(1).dirichlet(np.ones(CLASSES), size).astype(np.float32))


def batch(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns inputs and targets for `Linear`."""
    rng = np.random.default_rng(seed)
    return paddle.to_tensor(rng.standard_normal((size, 4)).astype(np.float32)), targets(size)


def pictures(size: int) -> tuple[Tensor, Tensor]:
    """Returns inputs and targets for the CvT."""
    return paddle.to_tensor(images(size, 32, 32)), targets(size)


def weights(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def difference(a: nn.Layer, b: nn.Layer) -> float:
    """Returns the largest difference of any tensor."""
    first, second = weights(a), weights(b)
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


# Accumulation


def after_one_update(inputs: tuple[Tensor, Tensor], *, parts: int, told: int, frozen: tuple[str, ...]) -> nn.Layer:
    """Returns a CvT after an update with lr 0.1 on a batch in several parts; told: how many it is told."""
    model = cvt()
    freeze(model, frozen)
    model.train()
    step = make_step(model)
    size = len(inputs[0]) // parts
    for i in range(parts):
        part = slice(i * size, (i + 1) * size)
        step.accumulate(inputs[0][part], inputs[1][part], group_size=told, last=i == parts - 1)
    step.update(0.1, 0)
    return model


@pytest.mark.parametrize("parts", [4, 3, 1])
def test_an_update_of_accumulated_parts_equals_one_of_the_whole_batch(parts: int) -> None:
    inputs = pictures(12)  # three parts are an epoch's shorter last group
    whole = after_one_update(inputs, parts=1, told=1, frozen=("bn",))
    assert difference(whole, cvt()) > 1e-3
    assert difference(after_one_update(inputs, parts=parts, told=parts, frozen=("bn",)), whole) <= 1e-6


@pytest.mark.parametrize(
    ("told", "frozen"), [(1, ("bn",)), (3, ("bn",)), (4, ())], ids=["undivided", "wrong size", "batch norm"]
)
def test_that_comparison_fails_without_the_division_and_with_batch_norm(told: int, frozen: tuple[str, ...]) -> None:
    inputs = pictures(12)
    whole = after_one_update(inputs, parts=1, told=1, frozen=frozen)
    assert difference(after_one_update(inputs, parts=4, told=told, frozen=frozen), whole) > 1e-4


def test_the_loss_of_a_part_is_its_own_mean_undivided_and_detached() -> None:
    model, (x, y) = linear(), batch(6)
    for settings in ({}, {"bce_loss": True, "bce_sum": True}):
        options = LossOptions(**settings)
        loss = make_step(model, loss=options).accumulate(x, y, group_size=4, last=False)
        assert float(loss) == pytest.approx(float(make_loss(options)(model(x), y)), rel=1e-6)
        assert loss.stop_gradient


# What the settings do


def stepped(optim: OptimOptions) -> tuple[dict[str, np.ndarray], Tensor]:
    """Returns what an update with lr 1 subtracts from the weights of `Linear`, and the norm that it returns."""
    model = linear()
    before = weights(model)
    step = make_step(model, optim)
    step.accumulate(*batch(12), group_size=1, last=True)
    norm = step.update(1.0, 0)
    assert all(p.grad is None for p in model.parameters()), "gradients are cleared"
    return {name: before[name] - value for name, value in weights(model).items()}, norm


def clipped_norm(gradients: dict[str, np.ndarray], limit: float) -> dict[str, np.ndarray]:
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    return {name: g * min(1.0, limit / norm) for name, g in gradients.items()}


def clipped_value(gradients: dict[str, np.ndarray], limit: float) -> dict[str, np.ndarray]:
    return {name: g.clip(-limit, limit) for name, g in gradients.items()}


def clipped_agc(gradients: dict[str, np.ndarray], limit: float) -> dict[str, np.ndarray]:
    model = weights(linear())
    result = {}
    for name, g in gradients.items():  # a unit is a column of the weight, and all of the bias
        axis = 0 if g.ndim == 2 else None
        w_norm, g_norm = (np.sqrt((x**2).sum(axis=axis, keepdims=True)) for x in (model[name], g))
        result[name] = g * np.minimum(1.0, limit * np.maximum(w_norm, 1e-3) / g_norm)
    return result


@pytest.mark.parametrize(
    ("mode", "limit", "clipped"),
    [
        ("norm", 0.05, clipped_norm),
        ("norm", 1e3, clipped_norm),
        ("value", 0.01, clipped_value),
        ("value", 1e3, clipped_value),
        ("agc", 0.02, clipped_agc),
        ("agc", 1e9, clipped_agc),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_clip_grad_and_clip_mode(mode: Any, limit: float, clipped: Any) -> None:
    gradients, norm = stepped(SGD)
    found, norm_before = stepped(OptimOptions(opt="sgd", weight_decay=0.0, clip_grad=limit, clip_mode=mode))
    assert float(norm_before) == float(norm), "the norm is that before clipping"
    for name, expected in clipped(gradients, limit).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)
    changes = any(np.abs(found[name] - gradients[name]).max() > 1e-3 for name in found)
    assert changes == (limit < 1.0)


def test_the_defaults_clip_nothing_and_accumulate_nothing() -> None:
    options = OptimOptions()
    assert (options.clip_grad, options.clip_mode, options.update_freq) == (None, "norm", 1)
    assert make_step(linear()).update_freq == 1
    assert make_step(linear(), OptimOptions(update_freq=4)).update_freq == 4
    tested_here = {"clip_grad", "clip_mode", "update_freq"}
    tested_elsewhere = {"freeze", "sync_bn", "grad_checkpointing"}
    assert tested_here | tested_elsewhere < {field.name for field in fields(OptimOptions)}


@pytest.mark.parametrize(("amp", "level", "dtype"), [(False, "O1", "float16"), (True, "O2", "bfloat16")])
def test_the_model_runs_in_the_precision_of_the_settings_and_the_loss_outside_of_it(
    amp: bool, level: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    inside = SimpleNamespace(now=False)

    @contextlib.contextmanager
    def auto_cast(**arguments: Any) -> Any:
        told.append(arguments)
        inside.now = True
        yield
        inside.now = False

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    model = linear()
    seen: list[tuple[str, bool]] = []
    step = make_step(model, precision=PrecisionOptions(amp=amp, amp_level=level, amp_dtype=dtype))
    model.register_forward_pre_hook(lambda layer, inputs: seen.append(("model", inside.now)))
    loss = step.loss

    def noted(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append(("loss", inside.now))
        return loss(logits, targets)

    step.loss = noted
    step.accumulate(*batch(2), group_size=1, last=True)
    assert [(call["enable"], call["level"], call["dtype"]) for call in told] == [(amp, level, dtype)]
    assert seen == [("model", True), ("loss", False)]


# The average


def average_of(model: nn.Layer, **settings: Any) -> ModelEma:
    return ModelEma(model, EmaOptions(model_ema=True, **settings))


def test_the_average_moves_once_an_update_with_the_decay_of_its_number() -> None:
    model = linear()
    ema = average_of(model, model_ema_decay=0.9, model_ema_warmup=True)
    expected = model.fc.weight.numpy().astype(np.float64)
    step = make_step(model, ema=ema)
    for number in range(7, 11):
        for part in range(3):
            step.accumulate(*batch(6, seed=3 * number + part), group_size=3, last=part == 2)
            np.testing.assert_allclose(ema.model.fc.weight.numpy(), expected, atol=1e-6)
        step.update(0.5, number)
        decay = min(0.9, 1 - (1 + number) ** (-2 / 3))
        expected = decay * expected + (1 - decay) * model.fc.weight.numpy()
    np.testing.assert_allclose(ema.model.fc.weight.numpy(), expected, atol=1e-6)
    assert np.abs(ema.model.fc.weight.numpy() - model.fc.weight.numpy()).max() > 1e-3


def scaled_step(
    model: nn.Layer, options: OptimOptions, monkeypatch: pytest.MonkeyPatch, ema: ModelEma | None = None
) -> TrainStep:
    """A step with float16's GradScaler, as far as a CPU goes: a scaled loss, but no half precision."""
    place = SimpleNamespace(is_gpu_place=lambda: True)
    with monkeypatch.context() as context:
        context.setattr("paddle.amp.grad_scaler._dygraph_tracer", lambda: SimpleNamespace(_expected_place=place))
        step = make_step(model, options, precision=PrecisionOptions(amp=True), ema=ema)
    assert step.scaler.is_enable()
    step.precision = NO_AMP
    return step


@pytest.mark.parametrize(("mode", "limit"), [("norm", 0.05), ("value", 0.01), ("agc", 0.02)])
def test_clipping_sees_the_gradient_without_the_scale(mode: Any, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    options = OptimOptions(opt="sgd", weight_decay=0.0, clip_grad=limit, clip_mode=mode)
    results = []
    for scaled in (True, False):
        model = linear()
        step = scaled_step(model, options, monkeypatch) if scaled else make_step(model, options)
        before = weights(model)
        step.accumulate(*batch(12), group_size=1, last=True)
        results.append(step.update(1.0, 0).item())
        results.append({name: value - before[name] for name, value in weights(model).items()})
    assert results[0] == pytest.approx(results[2], rel=1e-5)
    for name, change in results[3].items():
        np.testing.assert_allclose(results[1][name], change, atol=1e-6)


@pytest.mark.parametrize("overflow", [True, False])
def test_an_update_that_overflowed_moves_neither_the_weights_nor_the_average(
    overflow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = linear()
    ema = average_of(model, model_ema_decay=0.5)
    step = scaled_step(model, OptimOptions(opt="adamw"), monkeypatch, ema)
    ema.model.fc.weight.set_value(paddle.ones([4, CLASSES]))
    ema.model.fc.bias.set_value(paddle.ones([CLASSES]))
    before, average = weights(model), weights(ema.model)
    step.accumulate(*batch(6), group_size=1, last=True)
    assert float(model.fc.weight.grad.abs().max()) > 100.0, "the loss is scaled"
    if overflow:
        model.fc.bias.grad = paddle.full([CLASSES], float("inf"))
    norm = step.update(0.1, 0)
    assert bool(paddle.isfinite(norm)) != overflow
    for name, value in weights(model).items():
        assert np.array_equal(value, before[name]) == overflow
    for name, value in weights(ema.model).items():
        assert np.array_equal(value, average[name]) == overflow
    assert step.scaler._scale.item() == (2.0**15 if overflow else 2.0**16)


# The device


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
@pytest.mark.parametrize("loss", [{}, {"bce_loss": True, "bce_target_thresh": 0.2}], ids=["ce", "bce"])
def test_a_step_reads_nothing_from_the_device(mode: Any, loss: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = cvt()
    model.set_grad_checkpointing(True)
    optim = OptimOptions(clip_grad=0.5, clip_mode=mode)
    step = make_step(model, optim, loss=LossOptions(**loss), ema=average_of(model, model_ema_warmup=True))
    inputs = pictures(2)
    step.accumulate(*inputs, group_size=1, last=True)  # the first step makes tables, which are kept
    step.update(0.1, 0)

    def read(*_: Any) -> None:
        raise AssertionError("a tensor was read")

    for method in ("numpy", "item", "tolist", "__float__", "__bool__", "__int__", "__array__"):
        monkeypatch.setattr(paddle.Tensor, method, read)
    with pytest.raises(AssertionError, match="a tensor was read"):
        float(model.head.bias.sum())
    monkeypatch.setattr(paddle, "to_tensor", read)  # copies from the host
    for last in (False, True):
        step.accumulate(*inputs, group_size=2, last=last)
    step.update(0.1, 3)


# Operators


def operators(step: TrainStep, file: Path) -> int:
    """Returns how many kernels a step of AdamW launches, those of views included."""
    inputs = pictures(2)

    def once() -> None:
        step.accumulate(*inputs, group_size=1, last=True)
        step.update(0.1, 0)

    once()
    profiler = paddle.profiler.Profiler(
        targets=[paddle.profiler.ProfilerTarget.CPU], on_trace_ready=lambda p: p.export(str(file), format="json")
    )
    with profiler:
        once()
    return sum("kernel launch" in str(e.get("name")) for e in json.loads(file.read_text())["traceEvents"])


@pytest.mark.parametrize(("device", "most"), [("cpu", 1471), ("gpu", 587)])
def test_a_step_launches_no_more_operators(
    device: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cpu: with models/cpu.py; gpu: without, but linear layers and attention are not fused here."""
    monkeypatch.setattr("models.cpu.applies", lambda x: device == "cpu")
    step = make_step(cvt(), OptimOptions())
    assert operators(step, tmp_path / "step.json") <= most
    loss = step.loss
    step.loss = lambda logits, targets: loss(logits * 2.0, targets)
    assert operators(step, tmp_path / "more.json") > most, "one operator more is seen"
