"""The losses against timm's, and what each setting does to them."""

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor

from tests.golden.make_training_step import LOSSES, SMOOTHING, logits_and_targets
from tests.models.golden import load
from util.data.mixup import soft_targets
from util.options import LossOptions
from util.train.loss import make_loss


def problem(smoothing: float = SMOOTHING) -> tuple[Tensor, Tensor, Tensor]:
    """Returns logits, the labels' smoothed targets, and soft targets."""
    logits, labels, targets = (paddle.to_tensor(x) for x in logits_and_targets())
    return logits, soft_targets(labels, 5, smoothing), targets


def test_cross_entropy_equals_the_reference_and_its_definition() -> None:
    logits, _, targets = problem()
    loss = float(make_loss(LossOptions())(logits, targets))
    assert loss == pytest.approx(float(load("training_step")["loss_soft"]), rel=1e-6)
    x = logits.numpy().astype(np.float64)
    log_prob = x - x.max(1, keepdims=True)
    log_prob -= np.log(np.exp(log_prob).sum(1, keepdims=True))
    assert loss == pytest.approx(-(targets.numpy() * log_prob).sum(1).mean(), rel=1e-6)


@pytest.mark.parametrize("case", LOSSES)
def test_binary_cross_entropy_equals_the_reference(case: str) -> None:
    logits, smoothed, targets = problem()
    loss = make_loss(LossOptions(bce_loss=True, **LOSSES[case]))
    expected = load("training_step")
    assert float(loss(logits, targets)) == pytest.approx(float(expected[f"loss_{case}"]), rel=1e-6)
    assert float(loss(logits, smoothed)) == pytest.approx(float(expected[f"loss_{case}_labels"]), rel=1e-6)


def test_a_target_at_the_threshold_is_not_above_it() -> None:
    loss = make_loss(LossOptions(bce_loss=True, bce_target_thresh=0.25))
    found = loss(paddle.to_tensor([[2.0, 2.0]]), paddle.to_tensor([[0.25, 0.75]]))
    assert float(found) == pytest.approx((np.logaddexp(0.0, 2.0) + np.logaddexp(0.0, -2.0)) / 2, rel=1e-6)


BCE = {"bce_loss": True}
# settings, what changes in them, and what the loss must then be of per-class losses (B, K) of the targets as told
EFFECTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"smoothing": 0.0}),
    ({}, BCE),
    (BCE, {"smoothing": 0.0}),
    (BCE, {"bce_sum": True}),
    (BCE, {"bce_target_thresh": 0.1}),
]


def closed_form(options: LossOptions) -> float:
    """Returns the loss of the labels' targets in float64."""
    logits, _, _ = problem()
    _, labels, _ = logits_and_targets()
    x = logits.numpy().astype(np.float64)
    targets = np.eye(5)[labels] * (1 - options.smoothing) + options.smoothing / 5
    if not options.bce_loss:
        return float((targets * (np.log(np.exp(x).sum(1, keepdims=True)) - x)).sum(1).mean())
    if options.bce_target_thresh is not None:
        targets = (targets > options.bce_target_thresh).astype(np.float64)
    losses = targets * np.logaddexp(0.0, -x) + (1 - targets) * np.logaddexp(0.0, x)
    return float((losses.sum(1) if options.bce_sum else losses.mean(1)).mean())


@pytest.mark.parametrize(("before", "change"), EFFECTS, ids=str)
def test_every_setting_changes_the_loss_as_it_says(before: dict[str, Any], change: dict[str, Any]) -> None:
    found = []
    for settings in (before, before | change):
        options = LossOptions(**settings)
        logits, smoothed, _ = problem(options.smoothing)
        found.append(float(make_loss(options)(logits, smoothed)))
        assert found[-1] == pytest.approx(closed_form(options), rel=1e-6)
    assert abs(found[0] - found[1]) > 1e-3


def test_that_table_has_every_setting_and_its_default() -> None:
    defaults = {"smoothing": 0.1, "bce_loss": False, "bce_sum": False, "bce_target_thresh": None}
    assert {name for _, change in EFFECTS for name in change} == defaults.keys()
    assert vars(LossOptions()) == defaults


@pytest.mark.parametrize("settings", [{}, BCE, BCE | {"bce_sum": True, "bce_target_thresh": 0.3}], ids=str)
def test_the_loss_of_half_precision_logits_is_computed_in_float32(settings: dict[str, Any]) -> None:
    loss = make_loss(LossOptions(**settings))
    logits, _, targets = problem()
    half = logits.astype("bfloat16")
    found = loss(half, targets)
    assert found.dtype == paddle.float32
    assert float(found) == float(loss(half.astype("float32"), targets))


def test_an_improbable_class_costs_what_it_should() -> None:
    """Paddle's log_softmax stops at -64 on a CPU."""
    logits, targets = paddle.to_tensor([[0.0, -100.0]]), paddle.to_tensor([[0.0, 1.0]])
    assert make_loss(LossOptions())(logits, targets).item() == pytest.approx(100.0)
