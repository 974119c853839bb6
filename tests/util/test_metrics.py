"""Sums on the device against numpy on the whole."""

import numpy as np
import paddle
import pytest

from util.distributed import World
from util.errors import NonFiniteLossError
from util.evaluation.results import ImageCollector
from util.metrics import MetricSums

ONE = World(rank=0, size=1)


def expected(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Top-1 and top-5 in percent, and loss, from ranks: how many classes have a larger logit than the label's."""
    own = np.take_along_axis(logits.astype(np.float64), labels[:, None], axis=1)
    rank = (logits > own).sum(axis=1)
    losses = np.log(np.exp(logits.astype(np.float64) - own).sum(axis=1))
    return 100 * (rank < 1).mean(), 100 * (rank < 5).mean(), losses.mean()


@pytest.mark.parametrize("num_classes", [1, 2, 5, 30])
def test_top1_top5_and_loss_do_not_depend_on_the_batches(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (50, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, 50)
    for size in (50, 7):
        sums = MetricSums()
        for start in range(0, 50, size):
            part = slice(start, start + size)
            sums.update(paddle.to_tensor(logits[part]), paddle.to_tensor(labels[part]))
        found = sums.compute(ONE)
        assert found.images == 50
        assert (found.top1, found.top5, found.loss) == pytest.approx(expected(logits, labels), abs=1e-5)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    sums = MetricSums()
    sums.update(paddle.to_tensor([[float("nan"), 0.0]]), paddle.to_tensor([1]))
    with pytest.raises(NonFiniteLossError, match="loss over 1 images is nan"):
        sums.compute(ONE)


def test_losses_beyond_64_count_in_full() -> None:
    sums = MetricSums()
    sums.update(paddle.to_tensor([[0.0, 100.0, 0.0, 0.0, 0.0]]), paddle.to_tensor([0]))
    assert sums.compute(ONE).loss == pytest.approx(100, abs=1e-6)


def test_a_label_of_no_probability_is_refused() -> None:
    sums = MetricSums()
    sums.update(paddle.to_tensor([[0.0, float("-inf")]]), paddle.to_tensor([1]))
    with pytest.raises(NonFiniteLossError, match="loss over 1 images is inf"):
        sums.compute(ONE)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_loss_is_that_of_the_results_image_by_image(scale: float) -> None:
    rng = np.random.default_rng(3)
    logits = paddle.to_tensor(rng.normal(0, scale, (64, 10)).astype(np.float32))
    labels = paddle.to_tensor(rng.integers(0, 10, 64))
    sums, collector = MetricSums(), ImageCollector()
    sums.update(logits, labels)
    collector.update(logits, labels, paddle.arange(64))
    found, expected = sums.compute(ONE), collector.compute(ONE, num_images=64).metrics()
    assert (found.top1, found.top5) == (expected.top1, expected.top5)
    assert found.loss == pytest.approx(expected.loss, rel=1e-13)
