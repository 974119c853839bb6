"""Every optimizer against PyTorch's and timm's; its settings, layer-wise learning rates, and state in a checkpoint."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.optimizer import Lamb, Optimizer

from models import create_model
from tests.golden.make_optimizers import (
    LAYERS,
    OPTIMIZERS,
    SHAPES,
    STEPS,
    TOKEN,
    WEIGHT_DECAY,
    flat,
    gradient,
    lr,
    start,
)
from tests.models.golden import load
from util.errors import WeightsError
from util.options import OptimOptions
from util.train.optim import create_optimizer, decay_groups, layer_scales, optimizer_tensors, set_optimizer_tensors

ALL = ("sgd", "momentum", "adam", "adamw", "lamb", "lion")
DECAYED = {"embed.weight", "block.weight", "head.weight"}
SPARED = set(SHAPES) - DECAYED


class Tiny(nn.Layer):
    """The parameters of the golden problem."""

    def __init__(self) -> None:
        super().__init__()
        for layer in LAYERS:
            self.add_sublayer(layer, nn.Layer())
        for name, shape in SHAPES.items():
            layer, _, leaf = name.partition(".")
            part = getattr(self, layer)
            part.add_parameter(leaf, part.create_parameter(list(shape)))
            getattr(part, leaf).set_value(start(name))

    def no_weight_decay(self) -> set[str]:
        return {TOKEN}

    def layer_order(self) -> list[tuple[str, ...]]:
        return [(layer,) for layer in LAYERS]


def values(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: p.numpy() for name, p in model.named_parameters()}


def set_gradients(model: nn.Layer, step: int, factor: float = 1.0) -> None:
    for name, p in model.named_parameters():
        if not p.stop_gradient:
            p.grad = paddle.to_tensor((factor * gradient(name, p.numpy(), step)).astype(np.float32))


def train(model: nn.Layer, optimizer: Optimizer, steps: range) -> np.ndarray:
    """Returns all parameters after each step, (steps, values)."""
    after = []
    for step in steps:
        set_gradients(model, step)
        optimizer.set_lr(lr(step))
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        after.append(flat(values(model)))
    return np.stack(after)


def trained(steps: int = 12, **settings: Any) -> dict[str, np.ndarray]:
    """Returns the parameters after a few steps."""
    model = Tiny()
    train(model, create_optimizer(model, OptimOptions(**settings)), range(steps))
    return values(model)


def changed(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> set[str]:
    return {name for name in a if not np.array_equal(a[name], b[name])}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_twenty_steps_equal_the_reference(case: str) -> None:
    model = Tiny()
    optimizer = create_optimizer(model, OptimOptions(weight_decay=WEIGHT_DECAY, **OPTIMIZERS[case]))
    np.testing.assert_allclose(train(model, optimizer, range(STEPS)), load("optimizers")[case], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_that_comparison_sees_a_fifth_more_decay_and_a_slower_first_layer(case: str) -> None:
    for other in ({"weight_decay": 1.2 * WEIGHT_DECAY}, {"layer_decay": 0.9}):
        model = Tiny()
        settings = {"weight_decay": WEIGHT_DECAY} | OPTIMIZERS[case] | other
        after = train(model, create_optimizer(model, OptimOptions(**settings)), range(STEPS))
        assert np.abs(after - load("optimizers")[case]).max() > 1e-3, other


def test_that_comparison_sees_the_weight_decay_of_groups_that_lamb_ignores() -> None:
    model = Tiny()
    groups = decay_groups(model, filter_bias_and_bn=True)
    parameters = dict(model.named_parameters())
    parts = ((groups.decay, WEIGHT_DECAY), (groups.no_decay, 0.0))
    lamb = Lamb(
        0.0,
        lamb_weight_decay=0.0,
        parameters=[{"params": [parameters[name] for name in names], "weight_decay": decay} for names, decay in parts],
    )
    assert np.abs(train(model, lamb, range(STEPS)) - load("optimizers")["lamb"]).max() > 1e-3


def test_an_optimizer_leaves_nothing_to_the_next_one_of_the_same_model() -> None:
    model = Tiny()
    create_optimizer(model, OptimOptions(opt="momentum", weight_decay=0.5, layer_decay=0.5))
    train(model, create_optimizer(model, OptimOptions(opt="adamw")), range(12))
    assert changed(values(model), trained(opt="adamw")) == set()


# Settings of create_optimizer: the default; and what, changed from which settings to what, changes which parameters.
DEFAULTS = {
    "opt": "adamw",
    "opt_eps": None,
    "opt_betas": None,
    "momentum": None,
    "use_nesterov": False,
    "weight_decay": 0.05,
    "filter_bias_and_bn": True,
    "layer_decay": None,
}
OF_OTHER_TESTS = {"freeze", "clip_grad", "clip_mode", "update_freq", "grad_checkpointing", "sync_bn"}
EFFECTS: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    *[({"opt": a}, {"opt": b}, set(SHAPES)) for a in ALL for b in ALL if a < b and (a, b) != ("adam", "adamw")],
    ({"opt": "adam"}, {"opt": "adamw"}, DECAYED),
    *[({"opt": opt}, {"opt_eps": 1e-2}, set(SHAPES)) for opt in ("adam", "adamw", "lamb")],
    *[({"opt": opt}, {"opt_betas": (0.5, 0.999)}, set(SHAPES)) for opt in ("adam", "adamw", "lamb")],
    *[({"opt": opt}, {"opt_betas": (0.9, 0.7)}, set(SHAPES)) for opt in ("adam", "adamw", "lamb")],
    *[({"opt": "lion"}, {"opt_betas": betas}, set(SHAPES)) for betas in ((0.5, 0.99), (0.9, 0.7))],
    ({"opt": "momentum"}, {"momentum": 0.8}, set(SHAPES)),
    ({"opt": "momentum"}, {"use_nesterov": True}, set(SHAPES)),
    *[({"opt": opt}, {"weight_decay": 0.5}, DECAYED) for opt in ALL],
    *[({"opt": opt, "weight_decay": 0.5}, {"filter_bias_and_bn": False}, SPARED) for opt in ALL],
    *[({"opt": opt}, {"layer_decay": 0.5}, set(SHAPES) - {"head.weight", "head.bias"}) for opt in ALL],
]


@pytest.mark.parametrize(
    ("before", "change", "expected"), EFFECTS, ids=lambda value: str(sorted(value) if isinstance(value, set) else value)
)
def test_every_setting_changes_what_it_says_and_nothing_else(
    before: dict[str, Any], change: dict[str, Any], expected: set[str]
) -> None:
    assert changed(trained(**before), trained(**(before | change))) == expected


def test_that_table_has_every_setting_and_its_default() -> None:
    assert {name for _, change, _ in EFFECTS for name in change} == DEFAULTS.keys()
    assert {field.name for field in fields(OptimOptions)} == DEFAULTS.keys() | OF_OTHER_TESTS
    assert {name: getattr(OptimOptions(), name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("opt", "constants"),
    [
        ("adam", {"opt_eps": 1e-8, "opt_betas": (0.9, 0.999)}),
        ("adamw", {"opt_eps": 1e-8, "opt_betas": (0.9, 0.999)}),
        ("lamb", {"opt_eps": 1e-6, "opt_betas": (0.9, 0.999)}),
        ("lion", {"opt_betas": (0.9, 0.99)}),
    ],
)
def test_none_is_the_optimizers_own_constants(opt: str, constants: dict[str, Any]) -> None:
    assert changed(trained(opt=opt), trained(opt=opt, **constants)) == set()


@pytest.mark.parametrize("opt", ALL)
def test_what_is_frozen_stays_and_has_no_state(opt: str) -> None:
    model = Tiny()
    for p in model.embed.parameters():
        p.stop_gradient = True
    optimizer = create_optimizer(model, OptimOptions(opt=opt, layer_decay=0.5))  # type: ignore[arg-type]
    train(model, optimizer, range(3))
    assert {name for name in SHAPES if not np.array_equal(values(model)[name], start(name))} == {
        name for name in SHAPES if not name.startswith("embed.")
    }
    assert not [key for key in optimizer_tensors(optimizer, model) if "/embed." in key]


def test_layer_scales_fall_from_the_head_to_the_input() -> None:
    scales = layer_scales(create_model("cvt_nano_32x32", num_classes=3), 0.5)
    by_layer = {  # one block in each of the first two stages, two in the last
        "head.weight": 0, "head.bias": 0, "norm.weight": 0,
        "stage2.blocks.1.mlp.fc1.weight": 1, "stage2.blocks.0.attn.proj_q.bias": 2,
        "stage2.cls_token": 3, "stage2.patch_embed.proj.weight": 3, "stage1.blocks.0.norm1.bias": 4,
        "stage1.patch_embed.norm.weight": 5, "stage0.blocks.0.attn.conv_proj_k.bn.weight": 6,
        "stage0.patch_embed.proj.bias": 7,
    }  # fmt: skip
    assert {name: scales[name] for name in by_layer} == {name: 0.5**above for name, above in by_layer.items()}
    assert set(scales.values()) == {0.5**above for above in range(8)}


@pytest.mark.parametrize(
    ("order", "count"), [([("embed", "block")], 0), ([("embed",), ("block",), ("head", "embed")], 2)]
)
def test_a_parameter_without_its_one_layer_is_an_error(
    order: list[tuple[str, ...]], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Tiny()
    monkeypatch.setattr(model, "layer_order", lambda: order)
    with pytest.raises(ValueError, match=rf"is in {count} layers of Tiny\.layer_order\(\), expected 1"):
        layer_scales(model, 0.5)


def test_a_layer_is_named_by_whole_parts_of_a_name() -> None:
    model = nn.Layer()
    model.blocks = nn.LayerList(nn.Linear(1, 1, bias_attr=False) for _ in range(11))
    model.layer_order = lambda: [(f"blocks.{i}",) for i in range(11)]
    assert layer_scales(model, 0.5)["blocks.10.weight"] == 1.0


@pytest.mark.parametrize("opt", ALL)
def test_resumed_training_equals_uninterrupted_training_to_the_bit(opt: str) -> None:
    options = OptimOptions(opt=opt, layer_decay=0.7)  # type: ignore[arg-type]
    whole, first = Tiny(), Tiny()
    expected = train(whole, create_optimizer(whole, options), range(5))[-1]
    optimizer = create_optimizer(first, options)
    train(first, optimizer, range(3))
    weights, state = values(first), optimizer_tensors(optimizer, first)

    nn.Linear(3, 3)  # shifts Paddle's automatic names
    second = Tiny()
    assert second.head.bias.name != first.head.bias.name
    second.set_state_dict(weights)
    create_optimizer(second, options)  # the numbers at the ends of the state's names count the optimizers
    resumed = create_optimizer(second, options)
    set_optimizer_tensors(resumed, second, state)
    np.testing.assert_array_equal(train(second, resumed, range(3, 5))[-1], expected)


@pytest.mark.parametrize("opt", [opt for opt in ALL if opt != "sgd"])
def test_that_comparison_fails_without_the_optimizers_state(opt: str) -> None:
    options = OptimOptions(opt=opt)  # type: ignore[arg-type]
    whole, second = Tiny(), Tiny()
    expected = train(whole, create_optimizer(whole, options), range(5))
    train(second, create_optimizer(second, options), range(3))
    assert np.abs(train(second, create_optimizer(second, options), range(3, 5))[-1] - expected[-1]).max() > 1e-4


SLOTS = {
    "sgd": set(),
    "momentum": {"velocity"},
    "adam": {"moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc"},
    "adamw": {"moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc"},
    "lamb": {"moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc"},
    "lion": {"momentum"},
}


@pytest.mark.parametrize("opt", ALL)
def test_the_state_is_whole_before_the_first_step_and_a_copy(opt: str) -> None:
    model = Tiny()
    optimizer = create_optimizer(model, OptimOptions(opt=opt))  # type: ignore[arg-type]
    tensors = optimizer_tensors(optimizer, model)
    assert tensors.keys() == {f"{slot}/{name}" for slot in SLOTS[opt] for name in SHAPES}
    kept = {key: value.copy() for key, value in tensors.items()}
    train(model, optimizer, range(1))
    for key, value in tensors.items():
        np.testing.assert_array_equal(value, kept[key])


def test_a_state_that_does_not_fit_is_refused_and_nothing_is_changed() -> None:
    model = Tiny()
    optimizer = create_optimizer(model, OptimOptions(opt="momentum"))
    train(model, optimizer, range(1))
    tensors = optimizer_tensors(optimizer, model)
    one = "velocity/head.bias"
    cases = {
        "velocity/embed.weight is missing, and 5 more": {},
        "velocity/head.bias is missing;": {key: value for key, value in tensors.items() if key != one},
        "velocity/head.scale is unknown;": tensors | {"velocity/head.scale": np.zeros(1, np.float32)},
        "moment1/head.bias is unknown;": tensors | {"moment1/head.bias": tensors[one]},
        r"velocity/head.bias is float32 \[1\], expected float32 \[3\];": tensors | {one: np.zeros(1, np.float32)},
        r"velocity/head.bias is float64 \[3\], expected float32 \[3\];": tensors | {one: np.zeros(3)},
    }
    for message, given in cases.items():
        with pytest.raises(WeightsError, match=f"is not that of Momentum on this model: .*{message}"):
            set_optimizer_tensors(optimizer, model, {key: value + 1 for key, value in given.items()})
    for key, value in optimizer_tensors(optimizer, model).items():
        np.testing.assert_array_equal(value, tensors[key])


def test_sgd_has_no_state_and_takes_none() -> None:
    model = Tiny()
    optimizer = create_optimizer(model, OptimOptions(opt="sgd"))
    set_optimizer_tensors(optimizer, model, optimizer_tensors(optimizer, model))
    with pytest.raises(WeightsError, match=r"is not that of SGD on this model: velocity/head\.bias is unknown"):
        set_optimizer_tensors(optimizer, model, {"velocity/head.bias": np.zeros(3, np.float32)})


@pytest.fixture
def scaler(monkeypatch: pytest.MonkeyPatch) -> paddle.amp.GradScaler:
    """A GradScaler as on a GPU; on a CPU Paddle turns it off."""
    place = SimpleNamespace(is_gpu_place=lambda: True)
    monkeypatch.setattr("paddle.amp.grad_scaler._dygraph_tracer", lambda: SimpleNamespace(_expected_place=place))
    made = paddle.amp.GradScaler(init_loss_scaling=1024.0, use_dynamic_loss_scaling=False)
    monkeypatch.undo()
    assert made.is_enable()
    return made


@pytest.mark.parametrize("opt", ALL)
def test_grad_scaler_unscales_steps_and_skips(opt: str, scaler: paddle.amp.GradScaler) -> None:
    model, plain = Tiny(), Tiny()
    options = OptimOptions(opt=opt, layer_decay=0.5)  # type: ignore[arg-type]
    optimizer = create_optimizer(model, options)
    expected = train(plain, create_optimizer(plain, options), range(3))
    for step in range(3):
        for overflow in (True, False):  # each update is tried with an infinite gradient first
            set_gradients(model, step, factor=1024.0)
            if overflow:
                model.block.weight.grad[0, 0] = float("inf")
            scaler.unscale_(optimizer)
            optimizer.set_lr(lr(step))
            scaler.step(optimizer)
            optimizer.clear_grad(set_to_zero=False)
        np.testing.assert_array_equal(flat(values(model)), expected[step])


@pytest.mark.parametrize("opt", ALL)
def test_a_step_does_not_wait_for_the_device(opt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tiny()
    optimizer = create_optimizer(model, OptimOptions(opt=opt, layer_decay=0.5))  # type: ignore[arg-type]
    set_gradients(model, 0)

    def read(*_: Any) -> None:
        raise AssertionError("a tensor was read")

    for method in ("numpy", "item", "tolist", "__float__", "__bool__", "__int__", "__array__"):
        monkeypatch.setattr(paddle.Tensor, method, read)
    with pytest.raises(AssertionError, match="a tensor was read"):
        float(model.head.bias.sum())
    optimizer.set_lr(0.1)
    optimizer.step()
    monkeypatch.undo()
    assert changed(values(model), {name: start(name) for name in SHAPES}) == set(SHAPES)
