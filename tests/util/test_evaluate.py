"""One pass over batches: the same figures as sums and image by image, for any number of processes."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from util.data.dataset import BadImage
from util.data.loader import Batch
from util.data.sampler import EvalBatches
from util.distributed import World
from util.errors import DataError, NonFiniteLossError
from util.evaluate import evaluate, evaluate_images
from util.evaluation.results import ImageResults

NUM_IMAGES, NUM_CLASSES = 23, 8
ONE = World(rank=0, size=1)
LOGITS = np.random.default_rng(1).normal(0, 2, (NUM_IMAGES, NUM_CLASSES)).astype(np.float32)
LABELS = np.random.default_rng(2).integers(0, NUM_CLASSES, NUM_IMAGES)


def model() -> nn.Layer:
    """A model whose logits are the picture's first row."""

    class FirstRow(nn.Layer):
        def forward(self, images: paddle.Tensor) -> paddle.Tensor:
            assert not self.training
            return images[:, 0, 0]

    return FirstRow()


def batches(world: World, size: int = 4, logits: np.ndarray = LOGITS) -> Iterator[Batch]:
    for keys in EvalBatches(num_images=NUM_IMAGES, batch_size=size, rank=world.rank, world_size=world.size):
        indices = np.array([index for _, index, _ in keys])
        yield (
            paddle.to_tensor(logits[indices][:, None, None]),
            paddle.to_tensor(LABELS[indices]),
            paddle.to_tensor(indices),
            [],
        )


class StoppedError(Exception):
    """Ends a process when it gathers."""


@dataclass(frozen=True, kw_only=True)
class Recorder(World):
    """Keeps what a process hands over."""

    handed_over: list[Any]

    def gather(self, value: Any) -> list[Any]:
        self.handed_over.append(value)
        raise StoppedError


@dataclass(frozen=True, kw_only=True)
class Replay(World):
    """Hands out what all processes have handed over."""

    values: list[Any]

    def gather(self, value: Any) -> list[Any]:
        return self.values


def with_processes(count: int) -> ImageResults:
    """What the last of several processes gets, each of which has run on its own."""
    handed_over: list[Any] = []
    for rank in range(count):
        world = Recorder(rank=rank, size=count, handed_over=handed_over)
        with pytest.raises(StoppedError):
            evaluate_images(model(), batches(world), world, num_images=NUM_IMAGES, num_batches=1)
    everyone = Replay(rank=count - 1, size=count, values=handed_over)
    return evaluate_images(model(), batches(world), everyone, num_images=NUM_IMAGES, num_batches=1)


def test_every_image_has_its_scores_and_loss_in_the_order_of_the_split() -> None:
    found = evaluate_images(model(), batches(ONE), ONE, num_images=NUM_IMAGES, num_batches=6)
    scores = np.exp(LOGITS.astype(np.float64))
    scores /= scores.sum(axis=1, keepdims=True)
    best = np.argsort(-LOGITS, axis=1)[:, :5]
    np.testing.assert_array_equal(found.labels, LABELS)
    np.testing.assert_array_equal(found.top_ids, best)
    np.testing.assert_allclose(found.top_scores, np.take_along_axis(scores, best, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.label_scores, scores[np.arange(NUM_IMAGES), LABELS], rtol=1e-12)
    np.testing.assert_allclose(found.losses, -np.log(scores[np.arange(NUM_IMAGES), LABELS]), rtol=1e-12)
    np.testing.assert_array_equal(found.predicted, LOGITS.argmax(axis=1))
    np.testing.assert_array_equal(found.hits.any(axis=1), [label in ids for label, ids in zip(LABELS, best)])  # noqa: B905


@pytest.mark.parametrize("processes", [2, 3, 30])  # 30: some have no image
def test_results_are_the_same_for_any_number_of_processes(processes: int) -> None:
    one = evaluate_images(model(), batches(ONE), ONE, num_images=NUM_IMAGES, num_batches=6)
    found = with_processes(processes)
    for field in fields(ImageResults):  # a batch's size may change the last bit of a sum
        np.testing.assert_allclose(getattr(found, field.name), getattr(one, field.name), rtol=1e-14, err_msg=field.name)
    np.testing.assert_array_equal(found.top_ids, one.top_ids)
    assert (found.metrics().top1, found.metrics().top5) == (one.metrics().top1, one.metrics().top5)


def test_sums_and_results_give_the_same_figures() -> None:
    [sums] = evaluate([model()], batches(ONE), ONE, num_batches=6)
    found = evaluate_images(model(), batches(ONE, 5), ONE, num_images=NUM_IMAGES, num_batches=5).metrics()
    assert (sums.images, sums.top1, sums.top5) == (found.images, found.top1, found.top5)
    assert sums.loss == pytest.approx(found.loss, abs=1e-6)
    assert 0 < found.top1 < found.top5 < 100, "the figures tell something"


def test_an_image_that_is_missing_or_comes_twice_does_not_pass() -> None:
    with pytest.raises(AssertionError, match="every image once"):
        evaluate_images(model(), batches(World(rank=1, size=2)), ONE, num_images=NUM_IMAGES, num_batches=1)
    twice = [*batches(ONE), next(batches(ONE))]
    with pytest.raises(AssertionError, match="every image once"):
        evaluate_images(model(), twice, ONE, num_images=NUM_IMAGES, num_batches=1)


def test_training_models_train_again_afterwards_and_others_do_not() -> None:
    models = [model(), model(), model()]
    models[0].train()
    models[1].eval()
    evaluate(models, batches(ONE), ONE, num_batches=6)
    assert [m.training for m in models] == [True, False, True]
    bad = [(*next(batches(ONE))[:3], [BadImage("a.jpg", "is empty")])]
    with pytest.raises(DataError, match=r"unreadable image a\.jpg: is empty"):
        evaluate(models, bad, ONE, num_batches=1)
    assert [m.training for m in models] == [True, False, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits = LOGITS.copy()
    logits[3, 2] = value
    with pytest.raises(NonFiniteLossError, match="the weights give no finite logits"):
        evaluate_images(model(), batches(ONE, logits=logits), ONE, num_images=NUM_IMAGES, num_batches=6)


def test_missing_images_of_several_processes_are_counted_once() -> None:
    """Each of two processes has one that it cannot read, which is a whole batch."""
    missing = (4, 7)

    def with_holes(world: World) -> Iterator[Batch]:
        for images, labels, indices, _ in batches(world, size=1):
            index = int(indices[0])
            if index in missing:
                nothing = paddle.to_tensor([-1])
                yield paddle.zeros([1, 3, 1, 1]), nothing, nothing, [BadImage(str(index), "is empty")]
            else:
                yield images, labels, indices, []

    handed_over: list[Any] = []
    for rank in range(2):
        recorder = Recorder(rank=rank, size=2, handed_over=handed_over)
        with pytest.raises(StoppedError):
            evaluate_images(
                model(), with_holes(recorder), recorder, num_images=NUM_IMAGES, num_batches=1, all_labels=LABELS
            )
    everyone = Replay(rank=1, size=2, values=handed_over)
    last = with_holes(World(rank=1, size=2))
    found = evaluate_images(model(), last, everyone, num_images=NUM_IMAGES, num_batches=1, all_labels=LABELS)
    there = np.setdiff1d(np.arange(NUM_IMAGES), missing)
    right = (LOGITS.argmax(axis=1) == LABELS)[there].sum()
    assert [image.path for image in found.unreadable] == ["4", "7"]
    assert np.flatnonzero(~found.is_readable).tolist() == [4, 7]
    assert (found.metrics().images, found.metrics().top1) == (NUM_IMAGES, pytest.approx(100 * right / NUM_IMAGES))
    assert found.metrics().loss == pytest.approx(found.losses[there].mean())
    assert found.renumbered(np.arange(NUM_CLASSES)).top_ids[4, 0] == -1
