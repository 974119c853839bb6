"""Evaluating models on a labelled split: sums alone, as training needs them, or every image's result."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn

from util.data.dataset import BadImage
from util.data.loader import Batch, refuse_bad_images
from util.distributed import World
from util.evaluation.results import ImageCollector, ImageResults
from util.libraries import tqdm
from util.metrics import Metrics, MetricSums


@contextlib.contextmanager
def _evaluation_mode(models: Sequence[nn.Layer]) -> Iterator[None]:
    """Puts models into evaluation mode, and those that were training back afterwards."""
    training = [model for model in models if model.training]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model in training:
            model.train()


def _good_batches(
    batches: Iterable[Batch], world: World, *, num_batches: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields images, labels and indices. A batch with an unreadable image is a DataError that names it."""
    silent = None if world.is_main else True  # None: on a terminal only
    for images, labels, indices, bad in tqdm(batches, "eval", total=num_batches, leave=False, disable=silent):
        refuse_bad_images(bad)
        yield images, labels, indices


@paddle.no_grad()
def evaluate(models: Sequence[nn.Layer], batches: Iterable[Batch], world: World, *, num_batches: int) -> list[Metrics]:
    """Returns each model's exact top-1, top-5 and loss over all processes; every image is read and counted once.

    An unreadable image is a DataError: accuracy over fewer images would not be the split's.
    """
    sums = [MetricSums() for _ in models]
    with _evaluation_mode(models):
        for images, labels, _ in _good_batches(batches, world, num_batches=num_batches):
            for model, metric in zip(models, sums, strict=True):
                metric.update(model(images), labels)
    return [metric.compute(world) for metric in sums]


@paddle.no_grad()
def evaluate_images(
    model: nn.Layer,
    batches: Iterable[Batch],
    world: World,
    *,
    num_images: int,
    num_batches: int,
    all_labels: np.ndarray | None = None,
) -> ImageResults:
    """Returns every image's result, gathered from all processes, in the order of the split.

    num_images: of the whole split. num_batches: of this process. all_labels: of the whole split, int64 (num_images,);
    unreadable images then count as wrong instead of being a DataError. Errors else as in `evaluate`; logits that are
    not finite are a NonFiniteLossError.
    """
    collector = ImageCollector()
    unreadable: list[BadImage] = []
    if all_labels is None:
        readable = _good_batches(batches, world, num_batches=num_batches)
    else:
        readable = _readable_batches(batches, world, num_batches=num_batches, unreadable=unreadable)
    with _evaluation_mode([model]):
        for images, labels, indices in readable:
            collector.update(model(images), labels, indices)
    return collector.compute(world, num_images=num_images, unreadable=unreadable, all_labels=all_labels)


def _readable_batches(
    batches: Iterable[Batch], world: World, *, num_batches: int, unreadable: list[BadImage]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields images, labels and indices of the readable images, and adds the others to `unreadable`."""
    silent = None if world.is_main else True  # None: on a terminal only
    for images, labels, indices, bad in tqdm(batches, "eval", total=num_batches, leave=False, disable=silent):
        unreadable += bad
        if not bad or int(indices[0]) >= 0:  # else the placeholder of a batch without a readable image
            yield images, labels, indices
